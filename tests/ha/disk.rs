//! A disk on which nothing can be kept.

use std::{fs, process::Command};

use lb_tests::harness::{Mount, NAT_V4, Result, eventually, run};

use super::{PATIENCE, Pair};

#[test]
fn a_full_disk_keeps_no_standby_out() -> Result<()> {
    let mut pair = Pair::new(1)?;
    pair.settles("all", 0);
    pair.agent(1).kill()?;
    let disk = Mount::tiny(&pair.configs[1].state_dir)?;
    disk.fill()?;
    pair.start(1)?;
    pair.settles("all", 0);
    assert!(pair.words().contains("terms cannot be kept"), "{}", pair.words());
    pair.agent(0).kill()?;
    pair.serves("all", 1);
    let prober = pair.prober(NAT_V4)?;
    assert_eq!(prober.stop()?.repeated, 0);
    Ok(())
}

/// A file that is opened for writing once somebody reads it stands for a disk that
/// stands still.
#[test]
fn a_disk_that_stands_still_keeps_nobody_from_handing_over() -> Result<()> {
    let mut pair = Pair::new(1)?;
    pair.settles("all", 0);
    pair.is_told(1);
    let prober = pair.prober(NAT_V4)?;
    let file = pair.configs[0].state_dir.join("edits.json.new");
    run(Command::new("mkfifo").arg(&file), PATIENCE)?;
    let service = pair.configs[0].services[0].name().to_owned();
    let drain = ["backend", "drain", &service, "b1"];
    for _ in 0..2 {
        let refused = pair.lab.nodes[0].done(&drain).expect_err("no disk").to_string();
        assert!(refused.contains("its disk does not answer"), "{refused}");
        assert!(refused.contains("nothing was changed"), "{refused}");
    }
    pair.lab.nodes[0].done(&["ha", "failover"])?;
    pair.settles("all", 1);
    pair.lab.nodes[1].done(&["ha", "failover"])?;
    pair.settles("all", 0);
    // The disk goes on, and so do edits.
    fs::File::open(&file).expect("its reader");
    let drained = || pair.lab.nodes[0].done(&drain).is_ok();
    assert!(eventually(PATIENCE, drained), "{}", pair.words());
    run(Command::new("mkfifo").arg(&file), PATIENCE)?;
    pair.lab.nodes[0].done(&["firewall", "deny", "198.51.100.0/24"]).expect_err("no disk");
    assert!(pair.agent(0).terminate()?.success());
    pair.serves("all", 1);
    pair.goes_on(&prober);
    assert_eq!(prober.stop()?.repeated, 0);
    Ok(())
}
