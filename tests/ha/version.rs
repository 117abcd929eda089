//! A peer of another version.

use lb_tests::harness::{NAT_V4, Process, Result, eventually, run};

use super::{ECHO, PATIENCE, Pair};

/// A node of another version, as far as all versions are alike: it sends heartbeats
/// by the front network, each with the pair's tag, and hears nobody.
const STRANGER: &str = r"
import hashlib, hmac, socket, struct, sys, time
key_file, near, far, version, flags = sys.argv[1:]
mac = lambda key, said: hmac.new(key, said, hashlib.sha256).digest()
secret = bytes.fromhex(open(key_file).readline().strip())
key = mac(mac(bytes(32), secret), b'lb heartbeat\0lab\1')
out = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
out.bind((near, 4790))
print('it speaks', file=sys.stderr, flush=True)
sequence = 0
while True:
    sequence += 1
    said = b'lbHA' + bytes([int(version), int(flags), 254, 4, 0])
    said += struct.pack('>IIQQ', 50_000, 150_000, 7, sequence) + b'lb-b'
    out.sendto(said + mac(key, said), (far, 4790))
    time.sleep(0.05)
";
/// Frames in more time than a node without a peer waits before it serves.
const MANY: u64 = 60;
/// The flag of who serves.
const SERVES: u8 = 8;

/// Starts a node of another version in the place of node 1, which is gone.
fn stranger(pair: &Pair, version: u8, flags: u8) -> Result<Process> {
    let [a, b] = &pair.lab.nodes;
    // Debian's Python: it needs nothing else.
    let mut python = b.netns.command("/usr/bin/python3");
    python.args(["-c", STRANGER]).arg(pair.lab.path("pair.key"));
    python.args([b.front().to_string(), a.front().to_string()]);
    python.args([version.to_string(), flags.to_string()]);
    let mut process = Process::start(&mut python)?;
    process.wait_for("frame", PATIENCE, |log| log.contains("it speaks"))?;
    Ok(process)
}

/// Waits until node 0 has refused many more frames of another version.
fn refuses(pair: &Pair) -> Result<()> {
    let count =
        || -> Result<u64> { Ok(pair.refused(0)?.get("version").copied().unwrap_or_default()) };
    let many = count()? + MANY;
    let all = || count().is_ok_and(|count| count >= many);
    assert!(eventually(PATIENCE, all), "{}", pair.words());
    Ok(())
}

/// A pair both of whose agents are gone.
fn gone() -> Result<Pair> {
    let mut pair = Pair::new(1)?;
    pair.settles("all", 0);
    pair.agent(1).kill()?;
    pair.agent(0).kill()?;
    Ok(pair)
}

#[test]
fn a_node_does_not_begin_to_serve_beside_one_of_another_version() -> Result<()> {
    // Who is older may not know how to make way; who is newer says whether it serves.
    for (version, flags) in [(1, 0), (3, SERVES)] {
        let mut pair = gone()?;
        let other = stranger(&pair, version, flags)?;
        pair.start(0)?;
        refuses(&pair)?;
        assert!(pair.is(0, "all", "standby"), "{}", pair.words());
        let reasons: Vec<_> = pair.refused(0)?.into_keys().collect();
        assert_eq!(reasons, ["version"]);
        let log = pair.log(0);
        let told = log.lines().filter(|line| line.contains("another version of heartbeats"));
        let [line] = told.collect::<Vec<_>>()[..] else { panic!("{log}") };
        for words in [&format!("version={version} expected=2"), "upgrade"] {
            assert!(line.contains(words), "{line}");
        }
        let says = pair.lab.nodes[0].done(&["ha", "status"])?.stdout;
        let words = format!("peer: speaks version {version} of heartbeats, this node version 2");
        assert!(says.contains(&words), "{says}");
        // So a pair is upgraded: the other ends, and this one takes over.
        drop(other);
        pair.serves("all", 0);
        let prober = pair.prober(NAT_V4)?;
        pair.goes_on(&prober);
    }
    Ok(())
}

#[test]
fn a_newer_node_that_does_not_serve_keeps_nobody_from_serving() -> Result<()> {
    let mut pair = gone()?;
    let _other = stranger(&pair, 3, 0)?;
    pair.start(0)?;
    pair.serves("all", 0);
    Ok(())
}

#[test]
fn who_serves_goes_on_beside_a_node_of_another_version() -> Result<()> {
    let mut pair = Pair::new(1)?;
    pair.settles("all", 0);
    let watch = pair.lab.watch()?;
    let offered = pair.lab.offer(NAT_V4, ECHO)?;
    pair.goes_on(&offered[0]);
    pair.agent(1).kill()?;
    let _other = stranger(&pair, 1, 0)?;
    refuses(&pair)?;
    pair.serves("all", 0);
    pair.goes_on(&offered[0]);
    drop(offered);
    assert_eq!(watch.turns()?.len(), 1);
    Ok(())
}

#[test]
fn a_node_of_another_version_that_has_another_key_is_none_of_the_pair() -> Result<()> {
    let mut pair = gone()?;
    let own = pair.lab.path("own.key");
    run(pair.lab.nodes[0].lb().args(["ha", "keygen"]).arg(&own), PATIENCE)?;
    pair.configs[0].ha.as_mut().expect("a pair").key_file = own;
    let _other = stranger(&pair, 1, SERVES)?;
    pair.start(0)?;
    pair.serves("all", 0);
    let reasons: Vec<_> = pair.refused(0)?.into_keys().collect();
    assert_eq!(reasons, ["key"]);
    Ok(())
}
