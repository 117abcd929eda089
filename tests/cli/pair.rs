//! What a node of a pair refuses: to start where it could not serve or stand
//! by, and to change what the pair goes by while it runs.

use std::{
    fs, net::UdpSocket, os::unix::fs::PermissionsExt as _, process::Command, time::Duration,
};

use lb_tests::harness::{
    Config, Group, Ha, Lab, NAT_V4, Netns, Output, Result, curl, eventually, finish, lb_binary, run,
};

use super::{PATIENCE, URL, WEB, names, web};

/// Where the node hears its peer.
const LISTEN: &str = "10.2.0.1:4790";

/// [`web`] as a service of a pair whose other node is not there, with its key.
fn pair(lab: &Lab) -> Result<Config> {
    let key_file = lab.path("pair.key");
    if !key_file.exists() {
        run(lab.lb().args(["ha", "keygen"]).arg(&key_file), PATIENCE)?;
    }
    let ha = Ha {
        pair: "lab".into(),
        peer: vec!["10.2.0.3:4790".parse().unwrap()],
        listen: vec![LISTEN.parse().unwrap()],
        key_file,
        priority: 100,
        heartbeat: Duration::from_millis(50),
        preempt: false,
        replicate: false,
        fence: None,
        witness: None,
        groups: vec![Group { name: "all".into(), prefer: None, addresses: vec![(NAT_V4, "l0")] }],
    };
    let hash_seed = Some("000102030405060708090a0b0c0d0e0f".into());
    Ok(Config { hash_seed, ha: Some(ha), ..web(lab) })
}

/// What an agent says that cannot start; it leaves nothing behind.
#[track_caller]
fn start_refused(lab: &Lab, config: &Config, mut lb: Command) -> Result<String> {
    let start = lb.args(["agent", "--config"]).arg(lab.write(config)?);
    let Output { status, stderr, .. } = finish(start, PATIENCE)?;
    assert_eq!(status.code(), Some(1), "{stderr}");
    assert_eq!(lab.pins().names(), [""; 0], "{stderr}");
    assert!(!lab.socket().exists(), "{stderr}");
    assert!(!is_attached(&lab.balancer)?, "{stderr}");
    Ok(stderr)
}

fn is_attached(netns: &Netns) -> Result<bool> {
    Ok(run(netns.command("ip").args(["link", "show"]), PATIENCE)?.stdout.contains("xdp"))
}

#[track_caller]
fn assert_says(says: &str, words: &[&str]) {
    for word in words {
        assert_eq!(says.matches(word).count(), 1, "{word:?} in:\n{says}");
    }
}

#[test]
fn a_key_that_is_not_there_or_not_secret_keeps_an_agent_from_starting() -> Result<()> {
    let lab = Lab::new(0)?;
    let config = pair(&lab)?;
    let key = lab.path("pair.key");
    let set_mode = |mode| fs::set_permissions(&key, fs::Permissions::from_mode(mode)).unwrap();
    set_mode(0o640);
    let says = start_refused(&lab, &config, lab.lb())?;
    assert_says(&says, &["has mode 0640 and owner 0, expected 0600", "\nhint: `chown root"]);
    set_mode(0o600);
    fs::write(&key, "secret\n").unwrap();
    let says = start_refused(&lab, &config, lab.lb())?;
    assert_says(&says, &["pair.key` holds no key", "\nhint: make a key with `lb ha keygen"]);
    fs::remove_file(&key).unwrap();
    let says = start_refused(&lab, &config, lab.lb())?;
    assert_says(&says, &["pair.key` cannot be read: No such file", "\nhint: make a key with"]);
    Ok(())
}

#[test]
fn an_address_of_a_group_that_somebody_configured_keeps_an_agent_from_starting() -> Result<()> {
    let lab = Lab::new(0)?;
    let config = pair(&lab)?;
    lab.balancer.ip(&format!("addr add {NAT_V4}/32 dev l1"))?;
    let says = start_refused(&lab, &config, lab.lb())?;
    let removal = format!("`ip address del {NAT_V4}/32 dev l1`");
    assert_says(&says, &["is configured at interface `l1`", &removal]);
    Ok(())
}

#[test]
fn a_port_in_use_keeps_an_agent_from_starting() -> Result<()> {
    let lab = Lab::new(0)?;
    let config = pair(&lab)?;
    let hint = "\nhint: the ports of `ha.listen` must be free, both for UDP and TCP";
    let other = lab.balancer.within(|| UdpSocket::bind(LISTEN))?.unwrap();
    let says = start_refused(&lab, &config, lab.lb())?;
    let what = format!("cannot listen at `{LISTEN}` for the peer: ");
    assert_says(&says, &[&what, "Address already in use", hint]);
    drop(other);
    Ok(())
}

#[test]
fn a_node_of_a_pair_must_be_able_to_announce() -> Result<()> {
    let lab = Lab::new(0)?;
    let config = pair(&lab)?;
    let mut unable = lab.balancer.command("setpriv");
    unable.args(["--bounding-set", "-net_raw"]).arg(lb_binary());
    let says = start_refused(&lab, &config, unable)?;
    let hint = "\nhint: run it as root, or with CAP_BPF, CAP_NET_ADMIN, CAP_PERFMON, CAP_NET_RAW";
    assert_says(&says, &["error: missing CAP_NET_RAW", hint]);
    Ok(())
}

#[test]
fn what_a_pair_goes_by_does_not_change_while_the_agent_runs() -> Result<()> {
    let lab = Lab::new(2)?;
    let config = pair(&lab)?;
    let _agent = lab.start_agent(&config)?;
    let serves =
        || lab.done(&["ha", "status"]).is_ok_and(|status| status.stdout.contains("active"));
    assert!(eventually(PATIENCE, serves));
    let with = |change: &dyn Fn(&mut Ha)| {
        let mut ha = config.ha.clone().unwrap();
        change(&mut ha);
        Config { ha: Some(ha), ..config.clone() }
    };
    let others = [
        ("ha", with(&|ha| ha.priority = 200)),
        ("ha", with(&|ha| ha.heartbeat *= 2)),
        ("ha", with(&|ha| ha.peer[0].set_port(4791))),
        ("ha", with(&|ha| ha.groups[0].addresses.push(("203.0.113.99".parse().unwrap(), "l0")))),
        ("ha", Config { ha: None, ..config.clone() }),
        ("node.name", Config { name: "other".into(), ..config.clone() }),
    ];
    for (key, mut other) in others {
        // Nothing of such a file takes effect.
        other.services[0].remove("b2");
        lab.write(&other)?;
        let says = lab.refused(64, &["reload"])?;
        assert_says(&says, &[&format!("`{key}` cannot change while the agent runs"), "restart"]);
        assert_eq!(names(&lab)?, ["b1", "b2"]);
    }
    assert!(serves());
    assert!(curl(&lab.client, URL).is_ok());
    // All else does.
    let mut other = config.clone();
    other.services[0].remove("b2");
    lab.write(&other)?;
    lab.done(&["reload"])?;
    assert_eq!(names(&lab)?, ["b1"]);
    Ok(())
}

#[test]
fn keys_that_are_wrong_refuse_a_reload_whole() -> Result<()> {
    let lab = Lab::new(2)?;
    let config = pair(&lab)?;
    let _agent = lab.start_agent(&config)?;
    let file = lab.path("pair.key");
    let key = fs::read_to_string(&file).unwrap();
    let newest = || lab.json(&["ha", "status"]).map(|status| status["key"]["newest"].clone());
    let before = newest()?;
    let mut other = config.clone();
    other.services[0].remove("b2");
    lab.write(&other)?;
    let another = key.replace(key.chars().next().unwrap(), "g");
    let displaced = format!("{key}place {}", "7".repeat(64));
    for (text, mode, says) in [
        (another.as_str(), 0o600, "pair.key` holds no key"),
        (&displaced, 0o600, "pair.key` places flows otherwise than the keys in use"),
        (&key, 0o644, "pair.key` has mode 0644"),
    ] {
        fs::write(&file, text).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
        let refused = lab.refused(64, &["reload"])?;
        assert_says(&refused, &[says, "nothing was changed", "\nhint: "]);
        assert_eq!((names(&lab)?, newest()?), (vec!["b1".into(), "b2".into()], before.clone()));
    }
    fs::write(&file, &key).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    lab.done(&["reload"])?;
    assert_eq!(names(&lab)?, ["b1"]);
    // Keys are read also if nothing else has changed.
    run(lab.lb().args(["ha", "keygen", "--rotate"]).arg(&file), PATIENCE)?;
    lab.done(&["reload"])?;
    assert_ne!(newest()?, before);
    Ok(())
}

#[test]
fn a_single_balancer_becomes_none_of_a_pair_while_the_agent_runs() -> Result<()> {
    let lab = Lab::new(1)?;
    let pair = pair(&lab)?;
    let alone = Config { ha: None, ..pair.clone() };
    let _agent = lab.start_agent(&alone)?;
    let generation = lab.generation()?;
    lab.write(&pair)?;
    assert_says(&lab.refused(64, &["reload"])?, &["`ha` cannot change while the agent runs"]);
    assert_eq!(lab.generation()?, generation);
    // Its name is nobody's business.
    lab.write(&Config { name: "other".into(), ..alone })?;
    lab.done(&["reload"])?;
    assert_eq!(lab.backends_by(WEB, "name")?.len(), 1);
    Ok(())
}
