//! What neighbours are told.

use std::{io::Read as _, net::IpAddr, time::Duration};

use lb_tests::harness::{Lab, Result, eventually, run};
use lb_user::sys::{
    announce::{self, announce},
    link,
};
use socket2::{Domain, Protocol, Socket, Type};

use super::{VIPS, inside};

/// How long the kernel may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// The balancer's interface.
const L0: [u8; 6] = [2, 0, 0, 0, 0x10, 1];
/// The same as text.
const L0_TEXT: &str = "02:00:00:00:10:01";

fn vips() -> [IpAddr; 2] {
    VIPS.map(|vip| vip.parse().expect("an address"))
}

/// A lab whose balancer has the address [`L0`] at interface `l0`.
fn lab() -> Result<Lab> {
    let lab = Lab::new(0)?;
    lab.balancer.ip(&format!("link set l0 address {L0_TEXT}"))?;
    Ok(lab)
}

/// Announces the VIPs.
async fn tell(interface: &str) -> std::result::Result<(), announce::Error> {
    announce(&link::by_name(interface).await.expect("an interface"), &vips())
}

/// Announcements among what arrives at `ear`, so many.
fn heard(ear: &mut Socket, number: usize) -> Vec<Vec<u8>> {
    let mut frames = Vec::new();
    let mut bytes = [0; 2048];
    while frames.len() < number {
        let length = ear.read(&mut bytes).expect("another frame");
        let frame = &bytes[..length];
        let of_vip = match frame {
            [_, _, _, _, _, _, _, _, _, _, _, _, 8, 6, ..] => frame[28..32] == [203, 0, 113, 10],
            [_, _, _, _, _, _, _, _, _, _, _, _, 0x86, 0xdd, ..] => frame[54] == 136,
            _ => false,
        };
        if frame[6..12] == L0 && of_vip {
            frames.push(frame.to_vec());
        }
    }
    // Frames may go by several queues.
    frames.sort_unstable();
    frames
}

#[test]
fn announcements_are_those_of_the_standards() -> Result<()> {
    let lab = lab()?;
    let mut ear = lab.client.within(|| {
        let all = Protocol::from(libc::c_int::from((libc::ETH_P_ALL as u16).to_be()));
        Socket::new(Domain::PACKET, Type::RAW, Some(all)).expect("a packet socket")
    })?;
    ear.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    let v4 = [203, 0, 113, 10];
    let arp = [&[0xff; 6][..], &L0, &[8, 6, 0, 1, 8, 0, 6, 4, 0]].concat();
    let request = [&arp[..], &[1], &L0, &v4, &[0; 6], &v4].concat();
    let reply = [&arp[..], &[2], &L0, &v4, &L0, &v4].concat();
    for (forwarding, flags, checksum) in [("0", 0x20, [0xe9, 0x0c]), ("1", 0xa0, [0x69, 0x0c])] {
        lab.balancer.sysctl(&[("ipv6/conf/l0/forwarding", forwarding)])?;
        inside(&lab.balancer, async || tell("l0").await)?.unwrap();
        let v6 = [0x20, 1, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10];
        let advertisement = [
            &[0x33, 0x33, 0, 0, 0, 1][..],
            &L0,
            &[0x86, 0xdd, 0x60, 0, 0, 0, 0, 32, 58, 255],
            &v6,
            &[0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1],
            &[136, 0],
            &checksum,
            &[flags, 0, 0, 0],
            &v6,
            &[2, 1],
            &L0,
        ];
        let expected = [advertisement.concat(), request.clone(), reply.clone()];
        assert_eq!(heard(&mut ear, 3), expected);
    }
    Ok(())
}

#[test]
fn neighbours_learn_where_an_address_went() -> Result<()> {
    let lab = lab()?;
    for vip in VIPS {
        lab.client.ip(&format!("neigh replace {vip} lladdr 02:00:00:00:00:99 dev c0 nud stale"))?;
    }
    inside(&lab.balancer, async || tell("l0").await)?.unwrap();
    for vip in VIPS {
        let knows = || {
            let mut command = lab.client.command("ip");
            let shown = run(command.args(["neigh", "show", vip, "dev", "c0"]), PATIENCE);
            shown.unwrap().stdout.contains(L0_TEXT)
        };
        assert!(eventually(PATIENCE, knows), "{vip}");
    }
    Ok(())
}

#[test]
fn only_an_interface_that_sends_announces() -> Result<()> {
    let lab = lab()?;
    // There is nobody to tell.
    inside(&lab.balancer, async || tell("lo").await)?.unwrap();
    let failure = || inside(&lab.balancer, async || tell("l0").await.unwrap_err());
    lab.balancer.ip("link set l0 down")?;
    assert_eq!(failure()?.to_string(), "cannot announce `203.0.113.10` at interface `l0`");
    Ok(())
}
