//! `lb decap`.

use std::{collections::BTreeSet, net::IpAddr, path::PathBuf};

use ipnet::IpNet;
use lb_common::{
    decap::{SOURCES, VIPS},
    tunnel::GUE_PORT,
};
use serde_json::json;

use super::{Failure, Status, console::Console, count, detach, require, with_causes};
use crate::{
    core::model::XdpMode,
    dataplane::{
        decap::{self, Decap as Maps, DecapError, KIND, Settings},
        pins::{self, PinDir},
    },
    sys::{
        capability::Capability,
        link::{self, Interface},
    },
};

/// To load and attach the program.
const NEEDED: [Capability; 3] = [Capability::Bpf, Capability::NetAdmin, Capability::Perfmon];
/// To open what is pinned.
const NEEDED_TO_LOOK: [Capability; 1] = [Capability::Bpf];

/// On a backend: unwrap what balancers send in modes ipip and gue
///
/// Attaches an XDP program that takes packets to these VIPs out of the packets
/// that they come in, before the kernel sees them, so that no tunnel device is
/// needed. Everything else goes on untouched. The VIPs have to be addresses of
/// this host that it does not announce, as in mode dsr (`ip address add VIP/32 dev
/// lo`), and the sources what the balancers have in `node.tunnel_sources`.
///
/// The command ends at once, and the program stays, until `--detach` or the next start
/// of the machine. Given again, it sets all VIPs and sources anew; packets that the old
/// and the new have in common are unwrapped all the while. Without options it shows
/// what is unwrapped, and how many packets were.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  lb decap --interface eth0 --vip 203.0.113.10 --source 10.255.0.0/24
  lb decap            what is unwrapped, and how much was
  lb decap --detach")]
pub(super) struct Decap {
    /// Where packets come in; may be given several times
    #[arg(long, value_name = "NAME", requires = "vips", requires = "sources")]
    interface: Vec<String>,
    /// A VIP of this host; may be given several times
    #[arg(long = "vip", id = "vips", value_name = "ADDRESS", requires = "interface")]
    vip: Vec<IpAddr>,
    /// Who may send such packets: a prefix of `node.tunnel_sources`; may be given several times
    #[arg(long = "source", id = "sources", value_name = "PREFIX", requires = "interface")]
    source: Vec<IpNet>,
    /// The UDP port of mode gue
    #[arg(long, value_name = "PORT", default_value_t = GUE_PORT, requires = "interface")]
    port: u16,
    /// How to attach: auto, native or generic
    #[arg(long, value_name = "MODE", default_value = "auto", value_parser = mode)]
    xdp_mode: XdpMode,
    /// Stop it, and remove it from all interfaces
    #[arg(long, conflicts_with = "interface")]
    detach: bool,
    /// Directory where the program is pinned
    #[arg(long, value_name = "DIR", default_value = decap::PIN_DIR)]
    pin_dir: PathBuf,
}

fn mode(word: &str) -> Result<XdpMode, String> {
    match word {
        "auto" => Ok(XdpMode::Auto),
        "native" => Ok(XdpMode::Native),
        "generic" => Ok(XdpMode::Generic),
        _ => Err("expected auto, native or generic".to_owned()),
    }
}

impl Decap {
    pub(super) fn run(self, console: &mut Console<'_>) -> Result<(), Failure> {
        if self.detach {
            require(&NEEDED_TO_LOOK)?;
            let detached = pins::detach(&self.pin_dir, &KIND)?;
            return detach::say(console, &self.pin_dir, &detached);
        }
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| Failure::new(Status::Refused, error))?;
        if self.interface.is_empty() {
            require(&NEEDED_TO_LOOK)?;
            return runtime.block_on(self.show(console));
        }
        require(&NEEDED)?;
        runtime.block_on(self.attach(console))
    }

    async fn attach(self, console: &mut Console<'_>) -> Result<(), Failure> {
        let settings = Settings {
            vips: self.vip.into_iter().map(|vip| vip.to_canonical()).collect(),
            sources: self.source.iter().map(IpNet::trunc).collect(),
            port: self.port,
        };
        few(settings.vips.len(), VIPS, "VIPs")?;
        few(settings.sources.len(), SOURCES, "sources")?;
        let mut interfaces = Vec::new();
        for name in self.interface.iter().collect::<BTreeSet<_>>() {
            interfaces.push(link::by_name(name).await?);
        }
        let pins = PinDir::open(&self.pin_dir, &KIND)?;
        let attached = decap::attach(pins, &interfaces, self.xdp_mode, &settings).await?;
        for made in attached {
            let mode = made.mode.map_or_else(String::new, |mode| format!(" ({mode} XDP)"));
            console.say(format_args!("{}: attached{mode}", made.interface))?;
        }
        let vips = count(settings.vips.len() as u64, "VIP");
        console
            .say(format_args!("packets to {vips} from {} are unwrapped", list(&settings.sources)))
    }

    async fn show(self, console: &mut Console<'_>) -> Result<(), Failure> {
        let Some(pins) = PinDir::find(&self.pin_dir, &KIND)? else {
            let hint = "begin with `lb decap --interface NAME --vip ADDRESS --source PREFIX`";
            return Err(Failure::new(Status::Refused, "nothing is unwrapped here").hint(hint));
        };
        let maps = Maps::open(&pins)?;
        let Settings { vips, sources, port } = maps.settings()?;
        let counters = maps.counters()?;
        let mut interfaces = BTreeSet::new();
        for ifindex in pins.links()? {
            match link::by_index(ifindex).await {
                Ok(Interface { name, .. }) => interfaces.insert(name),
                Err(_) => interfaces.insert(format!("number {ifindex} (gone)")),
            };
        }
        if console.looks.json {
            let packets: serde_json::Map<_, _> = counters
                .into_iter()
                .map(|(counter, packets)| (counter.name().to_owned(), packets.into()))
                .collect();
            let sources: Vec<_> = sources.iter().map(ToString::to_string).collect();
            let shown = json!({
                "interfaces": interfaces,
                "vips": vips,
                "sources": sources,
                "port": port,
                "packets": packets,
            });
            return console.json(&shown.to_string());
        }
        console.say(format_args!("interfaces   {}", list(&interfaces)))?;
        console.say(format_args!("VIPs         {}", list(&vips)))?;
        console.say(format_args!("sources      {}", list(&sources)))?;
        console.say(format_args!("port of GUE  {port}"))?;
        for (counter, packets) in counters {
            console.say(format_args!("{packets:>12} {}", counter.words()))?;
        }
        Ok(())
    }
}

fn few(number: usize, most: u32, what: &str) -> Result<(), Failure> {
    if number <= most as usize {
        return Ok(());
    }
    Err(Failure::new(Status::Usage, format_args!("{number} {what}, expected at most {most}")))
}

fn list<T: ToString>(all: &BTreeSet<T>) -> String {
    all.iter().map(T::to_string).collect::<Vec<_>>().join(", ")
}

impl From<DecapError> for Failure {
    fn from(error: DecapError) -> Self {
        let failure = Self::new(Status::Refused, with_causes(&error));
        match error {
            DecapError::Map(..) => {
                failure.hint("of another version? `lb decap --detach`, and anew")
            }
            _ => failure,
        }
    }
}

impl From<link::Error> for Failure {
    fn from(error: link::Error) -> Self {
        Self::new(Status::Refused, with_causes(&error))
    }
}
