//! Leases, which a test gives instead of the agent.

use lb_common::maps;
use lb_tests::harness::{Agent, lb_binary};

use super::{Subject, array, pin_dir, write};
use crate::packet::setup::Setup;

/// A tick that never comes.
const NEVER: u64 = u64::MAX;

impl Subject<'_> {
    /// Ends the agent, which would give other leases.
    pub(crate) fn kill_agent(&mut self) {
        // Nobody would load it after that.
        self.explain.get_or_init(|| self.explaining());
        self.agent.take().expect("the agent runs").kill().expect("the agent lives");
    }

    /// Starts another agent with another configuration, on what the last one
    /// left.
    pub(crate) fn start_agent(&mut self, setup: &Setup) {
        write(self.lab, &self.path, setup);
        let agent = Agent::start(&lb_binary(), &self.lab.balancer, &self.path);
        self.agent = Some(agent.expect("the agent starts"));
        self.wait_for_next_hops();
    }

    /// The data plane's current tick.
    pub(crate) fn tick(&self) -> u64 {
        let (_, frame) = self.test_run(&self.clock, &[0; 64]);
        let (words, _) = frame.as_chunks();
        u64::from_ne_bytes(words[0])
    }

    /// Gives the group at a position a lease that never ends.
    pub(crate) fn serve(&self, group: u32) {
        self.serve_until(group, NEVER);
    }

    /// Gives the group at a position a lease that ends at a tick.
    pub(crate) fn serve_until(&self, group: u32, tick: u64) {
        let mut leases = array(&pin_dir(self.lab), maps::LEASES);
        leases.set(group, tick, 0).expect("an entry of LEASES");
    }
}
