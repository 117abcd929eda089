//! Two balancers of which one serves: what goes wrong, and who serves then.

mod addresses;
mod attack;
mod clocks;
mod crash;
mod cut;
mod disk;
mod fence;
mod flows;
mod freeze;
mod fullnat;
mod handover;
mod key;
mod loss;
mod metrics;
mod path;
mod promotion;
mod replica;
mod sync;
mod synproxy;
mod topology;
mod version;
mod witness;

use std::{collections::BTreeMap, net::IpAddr, time::Duration};

use lb_tests::harness::{
    Agent, Backend, Config, DSR_V4, DSR_V6, Flows, Mode, NAT_V4, NAT_V6, OTHER_NAT_V4,
    OTHER_NAT_V6, PairLab, Prober, Protocol, Result, Service, Survey, Turn, eventually,
    source_addresses,
};
use serde_json::Value;

/// A VIP of each mode and family.
const VIPS: [(IpAddr, Mode); 4] =
    [(NAT_V4, Mode::Nat), (NAT_V6, Mode::Nat), (DSR_V4, Mode::Dsr), (DSR_V6, Mode::Dsr)];
/// VIPs whose web service has the backends and port of another's: what tells
/// replies apart there is in the affinity table.
const SHARED: [(IpAddr, Mode); 2] = [(OTHER_NAT_V4, Mode::Nat), (OTHER_NAT_V6, Mode::Nat)];
/// Port of web services.
const WEB: u16 = 80;
/// Port of the UDP echo service.
const ECHO: u16 = 7;
/// How long something may take to show.
const PATIENCE: Duration = Duration::from_secs(15);
/// Answers after which service counts as going on.
const ENOUGH: usize = 100;
/// Live flows at each VIP.
const FLOWS: usize = 100;

/// Web and echo services of all of [`VIPS`], and web services of [`SHARED`], at
/// all backends.
fn services(backends: &[Backend]) -> Vec<Service> {
    let echo = VIPS.map(|(vip, mode)| Service::new(vip, Protocol::Udp, ECHO, mode));
    let services = web_services().chain(echo);
    services.map(|service| service.with(backends)).collect()
}

/// The web services, without backends.
fn web_services() -> impl Iterator<Item = Service> {
    let vips = VIPS.into_iter().chain(SHARED);
    vips.map(|(vip, mode)| Service::new(vip, Protocol::Tcp, WEB, mode))
}

/// A lab in which both agents run.
struct Pair {
    agents: [Option<Agent>; 2],
    configs: [Config; 2],
    lab: PairLab,
}

impl Pair {
    /// A pair of which node 0 serves all.
    fn new(backends: usize) -> Result<Self> {
        Self::with(backends, |_| {})
    }

    /// The same with other configurations.
    fn with(backends: usize, change: impl Fn(&mut Config)) -> Result<Self> {
        Self::inside(PairLab::new(backends)?, change)
    }

    /// The same in a lab.
    fn inside(lab: PairLab, change: impl Fn(&mut Config)) -> Result<Self> {
        lab.make_key()?;
        let configs = [0, 1].map(|node| {
            let mut config = lab.config(node, services(&lab.backends));
            change(&mut config);
            config
        });
        let mut pair = Self { agents: [None, None], configs, lab };
        pair.start(0)?;
        pair.start(1)?;
        Ok(pair)
    }

    fn start(&mut self, node: usize) -> Result<()> {
        self.agents[node] = Some(self.lab.nodes[node].start_agent(&self.configs[node])?);
        Ok(())
    }

    fn agent(&mut self, node: usize) -> Agent {
        self.agents[node].take().expect("it runs")
    }

    /// What a node says that it does about a group, if it says anything.
    fn role(&self, node: usize, group: &str) -> Option<String> {
        // A frozen agent does not answer, and is not asked for long.
        let roles = self.lab.nodes[node].groups_by("role").ok()?;
        Some(roles.get(group)?.as_str()?.to_owned())
    }

    fn is(&self, node: usize, group: &str, role: &str) -> bool {
        self.role(node, group).as_deref() == Some(role)
    }

    /// Waits until a node serves a group, and its peer, which runs, does not.
    fn settles(&self, group: &str, active: usize) {
        let settled = || self.is(active, group, "active") && self.is(1 - active, group, "standby");
        assert!(eventually(PATIENCE, settled), "{group} not at {active}: {}", self.words());
    }

    /// Waits until a node serves a group, whatever its peer does.
    fn serves(&self, group: &str, active: usize) {
        let serves = || self.is(active, group, "active");
        assert!(eventually(PATIENCE, serves), "{group} not at {active}: {}", self.words());
    }

    /// The term of a group, as a node knows it.
    fn term(&self, node: usize, group: &str) -> Result<u64> {
        let terms = self.lab.nodes[node].groups_by("term")?;
        Ok(terms.get(group).and_then(Value::as_u64).unwrap_or_default())
    }

    /// Frames that a node has refused, by reason.
    fn refused(&self, node: usize) -> Result<BTreeMap<String, u64>> {
        let status = self.lab.nodes[node].json(&["ha", "status"])?;
        let reasons = status["refused"].as_object().into_iter().flatten();
        Ok(reasons.filter_map(|(why, count)| Some((why.clone(), count.as_u64()?))).collect())
    }

    /// What a node's agent wrote, if it runs.
    fn log(&self, node: usize) -> String {
        self.agents[node].as_ref().map(Agent::log).unwrap_or_default()
    }

    /// Everything that the nodes say.
    fn words(&self) -> String {
        let words = |node: usize| {
            let log = self.log(node);
            let status = self.lab.nodes[node].json(&["ha", "status"]);
            format!("{}: {status:?}\n{log}\n", self.lab.nodes[node].name)
        };
        words(0) + &words(1)
    }

    /// A client of an echo service that has its answers.
    fn prober(&self, vip: IpAddr) -> Result<Prober> {
        let from = source_addresses(vip.is_ipv4())[0];
        let prober = Prober::start(&self.lab.client, from, (vip, ECHO).into())?;
        self.goes_on(&prober);
        Ok(prober)
    }

    /// Waits for more answers.
    fn goes_on(&self, prober: &Prober) {
        let enough = prober.answers() + ENOUGH;
        assert!(eventually(PATIENCE, || prober.answers() >= enough), "{}", self.words());
    }

    /// Waits until a node has been told all flows of its peer's groups.
    fn is_told(&self, node: usize) {
        let told = || {
            let status = self.lab.nodes[node].json(&["ha", "status"]);
            status.is_ok_and(|status| status["sync"]["heard"]["complete"] == true)
        };
        assert!(eventually(PATIENCE, told), "{}", self.words());
    }

    /// See [`open`].
    fn open(&self) -> Result<Vec<Flows>> {
        open(&self.lab)
    }
}

/// Opens connections to the web services of all VIPs.
fn open(lab: &PairLab) -> Result<Vec<Flows>> {
    let open = |(vip, _): (IpAddr, Mode)| {
        let sources = source_addresses(vip.is_ipv4());
        Flows::open(&lab.client, &sources, (vip, WEB).into(), FLOWS)
    };
    VIPS.into_iter().map(open).collect()
}

/// Who had the turns.
fn nodes(turns: &[Turn]) -> Vec<&'static str> {
    turns.iter().map(|turn| turn.node).collect()
}

/// Asks all connections again: none may have moved or be broken.
fn assert_kept(flows: &mut [Flows]) {
    for (flows, (vip, mode)) in flows.iter_mut().zip(VIPS) {
        let survey = flows.survey(None);
        assert_eq!(survey, Survey { kept: FLOWS, moved: 0, broken: 0 }, "{mode} at {vip}");
    }
}
