//! A new configuration under live flows.

use std::{net::IpAddr, time::Duration};

use lb_tests::harness::{
    DSR_V6, Flows, Lab, Mode, NAT_V4, Protocol, Result, Service, Survey, eventually,
    source_addresses,
};

use super::{WEB, all_answer, all_services};

/// How long a reload may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// Live flows.
const FLOWS: usize = 10_000;

#[test]
fn removing_one_of_ten_backends_moves_no_other_flow_in_mode_nat() -> Result<()> {
    removal_moves_nothing(NAT_V4, Mode::Nat)
}

#[test]
fn removing_one_of_ten_backends_moves_no_other_flow_in_mode_dsr() -> Result<()> {
    removal_moves_nothing(DSR_V6, Mode::Dsr)
}

fn removal_moves_nothing(vip: IpAddr, mode: Mode) -> Result<()> {
    let lab = Lab::new(10)?;
    let service = Service::new(vip, Protocol::Tcp, WEB, mode).with(&lab.backends);
    let mut config = lab.config([service]);
    let agent = lab.start_agent(&config)?;
    let sources = source_addresses(vip.is_ipv4());
    let mut flows = Flows::open(&lab.client, &sources, (vip, WEB).into(), FLOWS)?;
    let counts = flows.by_backend();
    assert_eq!(counts.len(), 10);
    let removed = counts["b4"];
    // A tenth each, give or take three tenths of it.
    assert!(counts.values().all(|&count| (700..1300).contains(&count)), "{counts:?}");

    config.services[0].remove("b4");
    lab.write(&config)?;
    let before = lab.pins().generation()?;
    agent.reload()?;
    let published = eventually(PATIENCE, || lab.pins().generation().is_ok_and(|now| now > before));
    assert!(published, "{}", agent.log());

    let survey = flows.survey(Some("b4"));
    assert_eq!(survey, Survey { kept: FLOWS - removed, moved: 0, broken: 0 });
    let new = Flows::open(&lab.client, &sources, (vip, WEB).into(), 1000)?.by_backend();
    assert_eq!(new.len(), 9);
    assert!(!new.contains_key("b4"), "{new:?}");
    Ok(())
}

#[test]
fn a_bad_configuration_is_refused_and_the_old_one_goes_on() -> Result<()> {
    let lab = Lab::new(3)?;
    let mut config = lab.config(all_services(&lab));
    let agent = lab.start_agent(&config)?;
    let before = lab.pins().generation()?;
    config.firewall = "host = \"perhaps\"".into();
    config.services.clear();
    lab.write(&config)?;
    agent.reload()?;
    assert!(eventually(PATIENCE, || agent.log().contains("perhaps")), "{}", agent.log());
    assert_eq!(lab.pins().generation()?, before);
    assert!(all_answer(&lab, NAT_V4));
    Ok(())
}
