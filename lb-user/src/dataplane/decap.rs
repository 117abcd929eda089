//! The program of `lb decap` at a backend: loaded, told whom it works for, and attached.
//! Its links and maps are pinned, so nothing has to run, and the next command finds
//! them.

use std::{collections::BTreeSet, net::IpAddr};

use aya::{
    EbpfLoader,
    maps::{
        Array, HashMap, Map, MapData, MapError, PerCpuArray,
        lpm_trie::{Key, LpmTrie},
    },
};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use lb_common::{
    addr,
    decap::{COUNTERS_MAP, Counter, MAPS, PORT_MAP, PROGRAM, SOURCES_MAP, VIPS_MAP},
};

use super::{
    attach::{AttachError, Attachable, Attachment, check_host},
    load::{LoadError, pin, program},
    pins::{Kind, PinDir, PinError},
};
use crate::{core::model::XdpMode, sys::link::Interface};

/// Where it is pinned by default.
pub const PIN_DIR: &str = "/sys/fs/bpf/lb-decap";
/// What is pinned.
pub static KIND: Kind = Kind { mark: PORT_MAP, maps: &MAPS, programs: &[PROGRAM] };

static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/lb-decap"));

/// Bits of a mapped address before the IPv4 address (RFC 4291, section 2.5.5.2).
const MAPPED: u8 = 96;

/// The program cannot be put to work.
#[derive(Debug, thiserror::Error)]
pub enum DecapError {
    /// See [`PinError`].
    #[error(transparent)]
    Pins(#[from] PinError),
    /// See [`LoadError`].
    #[error(transparent)]
    Load(#[from] LoadError),
    /// A map is not as it is made.
    #[error("map `{0}` of the program that unwraps packets cannot be used")]
    Map(&'static str, #[source] MapError),
    /// See [`AttachError`].
    #[error(transparent)]
    Attach(#[from] AttachError),
}

/// Whom the program works for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Packets to these are unwrapped.
    pub vips: BTreeSet<IpAddr>,
    /// Who may send them.
    pub sources: BTreeSet<IpNet>,
    /// The UDP port of GUE.
    pub port: u16,
}

/// Loads the program, beside the maps that are pinned if there are any, has it work
/// for `settings` and nobody else, and attaches it to `interfaces` and no others.
/// Interfaces that had it keep it all the while.
///
/// # Errors
/// An interface cannot be attached to, then nothing has changed; or the kernel refuses
/// else, then some may be done.
pub async fn attach(
    pins: PinDir,
    interfaces: &[Interface],
    mode: XdpMode,
    settings: &Settings,
) -> Result<Vec<Attachment>, DecapError> {
    pins.check()?;
    for interface in interfaces {
        check_host(interface).await?;
    }
    let mut loader = EbpfLoader::new();
    for name in MAPS {
        loader.map_pin_path(name, pins.pin(name));
    }
    let fresh = !pins.pin(KIND.mark).exists();
    let outcome = async {
        let mut ebpf = loader.load(OBJECT).map_err(LoadError::from)?;
        let program = program(&mut ebpf, PROGRAM)?;
        program.load().map_err(|error| LoadError::Program(PROGRAM, error))?;
        let mut decap = Decap::open(&pins)?;
        if fresh {
            decap.set(settings)?;
        }
        let attached =
            Attachable { pins: &pins, program: &mut *program }.attach(interfaces, mode).await?;
        decap.set(settings)?;
        pin(program, &pins, PROGRAM)?;
        Ok(attached)
    };
    match outcome.await {
        Ok(attached) => {
            let kept = |ifindex| interfaces.iter().any(|interface| interface.index == ifindex);
            for ifindex in pins.links()?.into_iter().filter(|ifindex| !kept(*ifindex)) {
                pins.remove(&pins.link(ifindex))?;
            }
            Ok(attached)
        }
        Err(error) => {
            if fresh {
                let _ = pins.clear();
                let _ = std::fs::remove_dir(pins.path());
            }
            Err(error)
        }
    }
}

/// The program's maps.
pub struct Decap {
    vips: HashMap<MapData, [u64; 2], u32>,
    sources: LpmTrie<MapData, [u64; 2], u32>,
    port: Array<MapData, u32>,
    counters: PerCpuArray<MapData, u64>,
}

impl Decap {
    /// Opens what is pinned.
    ///
    /// # Errors
    /// The maps are of another version, or the kernel refuses.
    pub fn open(pins: &PinDir) -> Result<Self, DecapError> {
        Ok(Self {
            vips: typed(pins, VIPS_MAP, Map::HashMap)?,
            sources: typed(pins, SOURCES_MAP, Map::LpmTrie)?,
            port: typed(pins, PORT_MAP, Map::Array)?,
            counters: typed(pins, COUNTERS_MAP, Map::PerCpuArray)?,
        })
    }

    /// Whom the program works for now.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn settings(&self) -> Result<Settings, DecapError> {
        let vips = self.vips.keys().map(|key| Ok(unmapped(key?))).collect::<Result<_, _>>();
        let sources = self.sources.keys().map(|key| Ok(net(&key?))).collect::<Result<_, _>>();
        let port = self.port.get(&0, 0).map_err(refused(PORT_MAP))?;
        Ok(Settings {
            vips: vips.map_err(refused(VIPS_MAP))?,
            sources: sources.map_err(refused(SOURCES_MAP))?,
            port: u16::from_be(port as u16),
        })
    }

    /// Packets by what became of them.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn counters(&self) -> Result<Vec<(Counter, u64)>, DecapError> {
        let sum =
            |counter: Counter| Ok((counter, self.counters.get(&(counter as u32), 0)?.iter().sum()));
        Counter::ALL.into_iter().map(sum).collect::<Result<_, _>>().map_err(refused(COUNTERS_MAP))
    }

    /// Has the program work for these, and for nobody else. What is taken before and
    /// after is taken all the while.
    fn set(&mut self, settings: &Settings) -> Result<(), DecapError> {
        let before = self.settings()?;
        let port = u32::from(settings.port.to_be());
        self.port.set(0, port, 0).map_err(refused(PORT_MAP))?;
        for source in settings.sources.difference(&before.sources) {
            self.sources.insert(&key(*source), 1, 0).map_err(refused(SOURCES_MAP))?;
        }
        for vip in settings.vips.difference(&before.vips) {
            self.vips.insert(mapped(*vip), 1, 0).map_err(refused(VIPS_MAP))?;
        }
        for vip in before.vips.difference(&settings.vips) {
            self.vips.remove(&mapped(*vip)).map_err(refused(VIPS_MAP))?;
        }
        for source in before.sources.difference(&settings.sources) {
            self.sources.remove(&key(*source)).map_err(refused(SOURCES_MAP))?;
        }
        Ok(())
    }
}

fn typed<T: TryFrom<Map, Error = MapError>>(
    pins: &PinDir,
    name: &'static str,
    kind: impl FnOnce(MapData) -> Map,
) -> Result<T, DecapError> {
    let data = MapData::from_pin(pins.pin(name));
    data.and_then(|data| T::try_from(kind(data))).map_err(refused(name))
}

fn refused(name: &'static str) -> impl FnOnce(MapError) -> DecapError {
    move |error| DecapError::Map(name, error)
}

/// As the program has addresses: two words, as loaded from a frame.
fn mapped(address: IpAddr) -> [u64; 2] {
    addr::words(addr::to_bytes(address))
}

fn unmapped(words: [u64; 2]) -> IpAddr {
    let mut bytes = [0; 16];
    for (half, word) in bytes.chunks_exact_mut(8).zip(words) {
        half.copy_from_slice(&word.to_ne_bytes());
    }
    addr::from_bytes(bytes)
}

fn key(source: IpNet) -> Key<[u64; 2]> {
    let length = source.prefix_len() + if source.addr().is_ipv4() { MAPPED } else { 0 };
    Key::new(length.into(), mapped(source.addr()))
}

fn net(key: &Key<[u64; 2]>) -> IpNet {
    let length = key.prefix_len() as u8;
    match unmapped(key.data()) {
        IpAddr::V4(v4) => Ipv4Net::new_assert(v4, length.saturating_sub(MAPPED)).into(),
        IpAddr::V6(v6) => Ipv6Net::new_assert(v6, length).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_and_prefixes_survive_the_maps_form() {
        for text in ["192.0.2.1", "2001:db8::1", "::1"] {
            let address: IpAddr = text.parse().unwrap();
            assert_eq!(unmapped(mapped(address)), address);
        }
        for text in ["10.255.0.0/24", "192.0.2.1/32", "2001:db8::/64", "::1/128"] {
            let prefix: IpNet = text.parse().unwrap();
            assert_eq!(net(&key(prefix)), prefix);
        }
    }
}
