//! Pure rules: no sockets, files, clock, randomness or kernel.

pub mod edit;
pub mod fleet;
pub mod ha;
pub mod handshake;
pub mod health;
pub mod maglev;
pub mod model;
pub mod nexthop;
pub mod plan;
pub mod quic;
pub mod quota;
pub mod replica;
pub mod route;
pub mod split;
pub mod sync;
pub mod weight;

/// How many schedules a property is tried with: so many, or what `LB_SCHEDULES` says.
#[cfg(test)]
fn schedules(usual: u32) -> proptest::test_runner::Config {
    let ordered = std::env::var("LB_SCHEDULES").ok().and_then(|number| number.parse().ok());
    proptest::test_runner::Config::with_cases(ordered.unwrap_or(usual))
}
