//! Routes made from a database in MaxMind's format.

use std::{fs, path::Path};

use lb_tests::harness::{Lab, Output, Result, finish, tool};
use maxminddb_writer::{Database, metadata::IpVersion, paths::IpAddrWithMask};
use serde_json::json;

use super::{PATIENCE, web};

/// What the database says of some networks.
const NETWORKS: [(&str, &str); 6] = [
    ("::198.51.100.0/121", "EU"),
    ("::198.51.100.128/121", "EU"),
    ("::203.0.113.0/122", "NA"),
    ("::192.0.2.0/120", "SA"),
    ("2001:db8::/33", "EU"),
    ("2001:db8:8000::/33", "NA"),
];

/// As most databases are: IPv4 networks have their place among those of IPv6.
fn write_database(path: &Path) {
    let mut database = Database::default();
    // Readers take no database without these.
    let metadata = &mut database.metadata;
    (metadata.binary_format_major_version, metadata.build_epoch) = (2, 1);
    metadata.database_type = "Continents".to_owned();
    metadata.languages.push("en".to_owned());
    metadata.description.insert("en".to_owned(), "for a test".to_owned());
    metadata.ip_version = IpVersion::V6;
    for (network, continent) in NETWORKS {
        let record = json!({ "continent": { "code": continent } });
        let data = database.insert_value(record).expect("a record");
        let network: IpAddrWithMask = network.parse().expect("a network");
        database.insert_node(network, data);
    }
    let mut bytes = Vec::new();
    database.write_to(&mut bytes).expect("a database");
    fs::write(path, bytes).expect("the lab's directory can be written");
}

fn script(words: &[&str]) -> Result<Output> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../lb-user/routes-from-mmdb.py");
    finish(tool("/usr/bin/python3").arg(script).args(words), PATIENCE)
}

#[test]
fn a_database_becomes_routes_that_the_agent_takes() -> Result<()> {
    let lab = Lab::new(0)?;
    let database = lab.path("continents.mmdb");
    let name = database.to_str().expect("a path of text");
    write_database(&database);
    for v4 in [true, false] {
        let family = if v4 { &[][..] } else { &["--ipv6"] };
        let words = [family, &[name, "continent.code", "eu=EU,AF", "us=NA,SA"]].concat();
        let output = script(&words)?;
        assert!(output.status.success(), "{}", output.stderr);
        let networks: &[&str] = if v4 {
            &["198.51.100.0/24", "192.0.2.0/24", "203.0.113.0/26"]
        } else {
            &["2001:db8::/33", "2001:db8:8000::/33"]
        };
        let found: Vec<_> =
            output.stdout.lines().filter_map(|line| line.trim().strip_prefix('"')).collect();
        assert_eq!(found, networks.iter().map(|net| format!("{net}\",")).collect::<Vec<_>>());
        let (vip, backends) = if v4 {
            ("203.0.113.10", ["10.0.0.1", "10.0.0.2"])
        } else {
            ("2001:db8::10", ["fd00::1", "fd00::2"])
        };
        let mut text = web(&lab).to_string().replace("203.0.113.10", vip);
        for (group, address) in ["eu", "us"].into_iter().zip(backends) {
            text += &format!(
                "[[service.backend]]\nname = \"{group}-1\"\ngroup = \"{group}\"\n\
                 address = \"{address}\"\n"
            );
        }
        text += &output.stdout;
        let file = lab.path("routed.toml");
        fs::write(&file, text).expect("the lab's directory can be written");
        lab.done(&["check", file.to_str().expect("a path of text")])?;
    }
    let output = script(&[name, "continent.code", "eu=EU", "asia=AS"])?;
    assert!(!output.status.success() && output.stdout.is_empty());
    assert!(output.stderr.contains("no network for group `asia`"), "{}", output.stderr);
    Ok(())
}
