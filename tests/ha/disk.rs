//! A disk that terms cannot be kept on.

use lb_tests::harness::{Mount, NAT_V4, Result};

use super::Pair;

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
