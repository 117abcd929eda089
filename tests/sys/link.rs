//! Interfaces that change.

use std::time::Duration;

use lb_tests::harness::{Lab, Result};
use lb_user::sys::link::{Interface, Monitor};
use tokio::time::timeout;

use super::inside;

/// How long the kernel may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// Waits until an interface is as expected.
async fn becomes(monitor: &mut Monitor, name: &str, expected: impl Fn(&Interface) -> bool) {
    let expected = async {
        while !monitor.look(name).await.is_ok_and(|found| expected(&found)) {
            monitor.changed().await;
        }
    };
    timeout(PATIENCE, expected).await.expect("to be told of the change");
}

#[test]
fn changes_of_an_interface_are_told() -> Result<()> {
    let lab = Lab::new(0)?;
    let ip = |line: &str| lab.balancer.ip(line).unwrap();
    inside(&lab.balancer, async || {
        let mut monitor = Monitor::open().unwrap();
        let mut looked = monitor.look("d0").await;
        assert!(looked.is_err());
        ip("link add d0 type veth peer name d1");
        becomes(&mut monitor, "d0", |d0| !d0.up && !d0.carrier).await;
        ip("link set d0 up");
        becomes(&mut monitor, "d0", |d0| d0.up && !d0.carrier).await;
        ip("link set d1 up");
        becomes(&mut monitor, "d0", |d0| d0.carrier).await;
        let before = monitor.look("d0").await.unwrap();
        ip("link set d1 down");
        ip("link set d1 up");
        becomes(&mut monitor, "d0", |d0| d0.carrier && d0.carrier_ups > before.carrier_ups).await;
        ip("link del d0");
        looked = monitor.look("d0").await;
        assert!(looked.is_err());
    })
}
