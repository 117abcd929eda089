//! What everybody uses to move addresses between two hosts.

use std::{fmt::Write as _, fs, net::IpAddr, time::Duration};

use super::{Error, Node, PairLab, Process, Result};

/// How long keepalived may take to start.
const PATIENCE: Duration = Duration::from_secs(10);

/// keepalived in a node, which moves the addresses that a pair of `lb` moves.
#[derive(Debug)]
pub struct Keepalived {
    process: Process,
}

impl Keepalived {
    /// Starts it in node 0 or 1, of which 0 has the higher priority; adverts are
    /// unicast, `interval` (a multiple of 10 ms) apart.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start(pair: &PairLab, node: usize, interval: Duration) -> Result<Self> {
        let (own, peer) = (&pair.nodes[node], &pair.nodes[1 - node]);
        let file = own.path("keepalived.conf");
        fs::write(&file, configuration(own, peer, [150, 100][node], interval))
            .map_err(Error::io(format!("write `{}`", file.display())))?;
        let mut command = own.netns.command("keepalived");
        command.args(["--dont-fork", "--log-console", "--vrrp"]);
        for (flag, name) in [("--pid", "keepalived.pid"), ("--vrrp_pid", "vrrp.pid")] {
            command.arg(flag).arg(own.path(name));
        }
        let mut process = Process::start(command.arg("--use-file").arg(file))?;
        process.wait_for("start", PATIENCE, |log| log.contains("Entering"))?;
        Ok(Self { process })
    }

    /// What it wrote.
    #[must_use]
    pub fn log(&self) -> String {
        self.process.log()
    }

    /// Kills all its processes without a chance to say farewell.
    ///
    /// # Errors
    /// It has ended already.
    pub fn kill(self) -> Result<()> {
        self.process.kill_all()
    }
}

fn configuration(own: &Node, peer: &Node, priority: u8, interval: Duration) -> String {
    let addresses = [PairLab::nat_addresses(), PairLab::dsr_addresses()].concat();
    // An instance speaks one family; addresses of the other just come along.
    let (v4, v6): (Vec<_>, Vec<_>) = addresses.iter().partition(|(address, _)| address.is_ipv4());
    let lines = |addresses: &[(IpAddr, &str)]| {
        addresses.iter().fold(String::new(), |mut lines, (address, interface)| {
            let _ = writeln!(lines, "        {address} dev {interface}");
            lines
        })
    };
    format!(
        "global_defs {{
    router_id {name}
    vrrp_version 3
}}
vrrp_instance pair {{
    state BACKUP
    nopreempt
    interface l0
    virtual_router_id 7
    priority {priority}
    advert_int {interval}
    unicast_src_ip {from}
    unicast_peer {{
        {to}
    }}
    virtual_ipaddress {{
{v4}    }}
    virtual_ipaddress_excluded {{
{v6}    }}
}}
",
        name = own.name,
        interval = interval.as_secs_f64(),
        from = own.front(),
        to = peer.front(),
        v4 = lines(&v4),
        v6 = lines(&v6),
    )
}
