//! `lb firewall`, as packets see it.

use std::net::{SocketAddr, TcpStream};

use lb_tests::harness::{CLIENT_V4, Lab, Result, curl, eventually};

use super::{PATIENCE, URL, rows, web};

#[test]
fn a_denied_client_gets_nothing_until_its_time_is_over() -> Result<()> {
    let lab = Lab::new(1)?;
    let _agent = lab.start_agent(&web(&lab))?;
    let client = CLIENT_V4.to_string();
    let denied = || lab.json(&["stats"]).map(|stats| stats["drops"].to_string());
    let before = denied()?;
    lab.done(&["firewall", "deny", "10.1.0.0/24"])?;
    assert!(curl(&lab.client, URL).is_err());
    assert_ne!(denied()?, before, "what is dropped is counted");
    assert_eq!(lab.json(&["firewall", "list"])?["deny"][0]["left_s"], serde_json::Value::Null);
    lab.done(&["firewall", "undeny", "10.1.0.0/24"])?;
    assert_eq!(curl(&lab.client, URL)?, "b1\n");

    let generation = lab.generation()?;
    lab.done(&["firewall", "deny", &client, "--for", "4s"])?;
    let list = lab.done(&["firewall", "list"])?.stdout;
    let row = rows(&list)[2].clone();
    assert_eq!(row[..2], ["deny", "10.1.0.2/32"]);
    assert!(row[2].ends_with('s'), "{list}");
    assert!(curl(&lab.client, URL).is_err());
    assert!(eventually(PATIENCE, || curl(&lab.client, URL).is_ok()));
    assert_eq!(lab.json(&["firewall", "list"])?["deny"].as_array().map(Vec::len), Some(0));
    assert_eq!(lab.json(&["status"])?["edits"], 0);
    assert_eq!(lab.generation()?, generation + 2);
    Ok(())
}

#[test]
fn a_port_is_open_to_the_host_while_it_is_allowed() -> Result<()> {
    let lab = Lab::new(0)?;
    let mut config = lab.config([]);
    config.firewall = "host = \"drop\"".to_owned();
    let _agent = lab.start_agent(&config)?;
    let host: SocketAddr = "10.1.0.1:2222".parse().unwrap();
    let _server = lab.balancer.within(|| std::net::TcpListener::bind(host))?.unwrap();
    let open = || {
        let connect = || TcpStream::connect_timeout(&host, std::time::Duration::from_millis(500));
        lab.client.within(connect).is_ok_and(|stream| stream.is_ok())
    };
    assert!(!open());
    lab.done(&["firewall", "allow", "tcp/2222"])?;
    assert!(open());
    let list = lab.done(&["firewall", "list"])?.stdout;
    assert_eq!(
        rows(&list),
        [vec!["RULE", "WHAT"], vec!["drop", "host"], vec!["allow", "tcp/2222"]]
    );
    lab.done(&["firewall", "disallow", "tcp/2222"])?;
    assert!(!open());
    assert!(lab.done(&["firewall", "allow", "tcp/2222"]).is_ok());
    Ok(())
}
