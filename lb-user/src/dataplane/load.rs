//! Loads the program, or adopts the maps that an earlier agent left pinned.

mod programs;

use std::{
    collections::BTreeMap,
    fs, io,
    mem::offset_of,
    os::fd::AsFd as _,
    path::PathBuf,
    sync::{Arc, atomic::Ordering},
};

use aya::{
    Ebpf, EbpfError, EbpfLoader,
    maps::{Array, DevMapHash, HashMap, LpmTrie, Map, MapData, MapError, PerCpuArray, RingBuf},
    pin::PinError as AyaPinError,
    programs::ProgramError,
};
use bytemuck::Pod;
use lb_common::{bridge::Station, config::Config, limits, maps, trace::Record};

pub(super) use self::programs::{pin, program};
use super::{
    bindings::{Bindings, KernelBound},
    changes::{Changes, ProxiedChanges},
    clock::Clock,
    kernel::Kernel,
    leases::Leases,
    mmap::Mapped,
    pins::{PinDir, PinError},
    probe::Probing,
    quic::QuicMaps,
    routes::RouteMap,
    stations::Stations,
    tables::Tables,
    vlans::Vlans,
};
use crate::{core::nexthop::Leaving, sys::link};

/// The program, built by the build script.
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/lb-xdp"));

/// What the data plane is made for; it cannot change while it is loaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Rated concurrent flows.
    pub flows: u32,
    /// Seed shared by all balancers of a VIP; `None`: any.
    pub hash_seed: Option<[u64; 2]>,
    /// Secret that places flows in the affinity table, shared by the nodes of a
    /// pair; `None`: any.
    pub place_seed: Option<[u64; 2]>,
    /// Level of the program's own log, 0 (nothing, at no cost) to 5.
    pub log_level: u8,
}

/// The data plane cannot be loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// See [`PinError`].
    #[error(transparent)]
    Pins(#[from] PinError),
    /// The pinned maps are of another version.
    #[error(
        "the data plane pinned in `{path}` has layout {found}, expected {expected}: \
         `lb detach` removes it and its flows"
    )]
    Layout {
        /// The pin directory.
        path: PathBuf,
        /// [`limits::ABI_VERSION`] of its maker.
        found: u32,
        /// Our own.
        expected: u32,
    },
    /// The affinity table has another size.
    #[error(
        "the data plane pinned in `{path}` was made for {found} flows, `node.flows` asks for \
         {expected} (both rounded up): keep the number, or `lb detach` removes it and its flows"
    )]
    Flows {
        /// The pin directory.
        path: PathBuf,
        /// Rounded flows it was made for.
        found: u32,
        /// Rounded flows that are asked for.
        expected: u32,
    },
    /// Flows are hashed with another seed.
    #[error(
        "the data plane pinned in `{0}` has another `node.hash_seed`: keep the seed, or \
         `lb detach` removes it and its flows"
    )]
    Seed(PathBuf),
    /// The kernel refused the object.
    #[error("the kernel refused the data plane")]
    Object(#[from] EbpfError),
    /// The kernel refused a program.
    #[error("the kernel refused program `{0}`")]
    Program(&'static str, #[source] ProgramError),
    /// A program cannot be pinned.
    #[error("cannot pin program `{0}`")]
    Pin(&'static str, #[source] AyaPinError),
    /// A map is not what it should be.
    #[error("map `{0}` cannot be used")]
    Map(&'static str, #[source] io::Error),
    /// The host's clock cannot be measured.
    #[error(transparent)]
    Clock(#[from] link::Error),
    /// No randomness for the secret of the affinity table.
    #[error("cannot read random bytes")]
    Random(#[source] io::Error),
}

/// The loaded data plane.
pub struct DataPlane {
    /// The maps that plans are about.
    pub tables: Tables,
    /// Until when groups are served.
    pub leases: Arc<Leases>,
    /// What changes in the affinity table.
    pub changes: Arc<Changes>,
    clock: Arc<Clock>,
    /// Interfaces to redirect to.
    pub(super) ports: DevMapHash<MapData>,
    vlans: Vlans,
    stations: Stations,
    /// What the program that explains found.
    pub(super) trace: Mapped<Record>,
    /// Where it is pinned.
    pub(super) pins: PinDir,
    /// Whether this process made the maps.
    pub created: bool,
    notices: Option<RingBuf<MapData>>,
    /// The programs that rewrite probes.
    pub(super) probing: Probing,
    /// The kernel's number of our program.
    pub(super) program_id: u32,
    pub(super) ebpf: Ebpf,
}

/// What loading the object gives.
type Loaded = (Tables, Probing, Ebpf);

impl DataPlane {
    /// Adopts what is pinned, or loads anew; nothing is attached yet, and what only some
    /// services need is not loaded, see [`Self::load_for`].
    ///
    /// # Errors
    /// What is pinned does not fit `options`, or the kernel refuses.
    pub fn load(pins: PinDir, options: &Options) -> Result<Self, LoadError> {
        pins.check()?;
        let created = !adoptable(&pins, options)?;
        if created {
            // What an agent left that died before anything was attached.
            pins.clear()?;
        }
        match Self::load_programs(&pins, options) {
            Ok(loaded) => Self::collect(loaded, pins, created),
            Err(error) => {
                if created {
                    let _ = pins.clear();
                }
                Err(error)
            }
        }
    }

    fn load_programs(pins: &PinDir, options: &Options) -> Result<Loaded, LoadError> {
        let buckets = limits::flow_buckets(options.flows);
        let mut loader = EbpfLoader::new();
        loader.map_max_entries(maps::FLOWS, buckets);
        loader.map_max_entries(maps::CHANGES, limits::change_lines(buckets));
        loader.override_global(aya_log::LEVEL, &options.log_level, false);
        for name in maps::PINNED {
            loader.map_pin_path(name, pins.pin(name));
        }
        let mut ebpf = loader.load(OBJECT)?;
        programs::load(&mut ebpf, pins)?;
        let probing = Probing::load(&mut ebpf);
        let tables = tables(pins)?;
        initialise(&tables.config, options)?;
        if let Some(seed) = options.place_seed {
            place_anew(&tables, seed);
        }
        Ok((tables, probing, ebpf))
    }

    fn collect(
        (tables, probing, mut ebpf): Loaded,
        pins: PinDir,
        created: bool,
    ) -> Result<Self, LoadError> {
        let ports = typed(&pins, maps::PORTS, DevMapHash::try_from)?;
        let vlans = Vlans::read(typed(&pins, maps::VLANS, HashMap::try_from)?, &ports)
            .map_err(|error| LoadError::Map(maps::VLANS, error))?;
        let stations = Stations::read(typed(&pins, maps::STATIONS, HashMap::try_from)?)
            .map_err(|error| LoadError::Map(maps::STATIONS, error))?;
        let trace = mapped(&pins, maps::TRACE)?;
        let config = tables.config.read(0);
        let clock = Clock::open(&pins);
        let clock = Arc::new(clock.map_err(clock_failed)?);
        let ends = mapped(&pins, maps::LEASES)?;
        let leases = Leases::take_over(ends, Arc::clone(&clock), config.tick_scale);
        let (flows, marks) = (Arc::clone(&tables.flows), mapped(&pins, maps::CHANGES)?);
        let bound = KernelBound(typed(&pins, maps::BOUND, HashMap::try_from)?.into());
        let bindings = Bindings::new(Arc::clone(&tables.bindings), Box::new(bound));
        let table = Arc::clone(&tables.proxied);
        let proxied = ProxiedChanges { table, marks: mapped(&pins, maps::PROXIED_CHANGES)? };
        let changes = Changes::new(flows, marks, bindings, proxied, Arc::clone(&clock), &config);
        let notices = typed(&pins, maps::NOTICES, RingBuf::try_from)?;
        let info = program(&mut ebpf, maps::PROGRAM)?.info();
        let info = info.map_err(|error| LoadError::Program(maps::PROGRAM, error))?;
        Ok(Self {
            tables,
            leases: leases.into(),
            changes: changes.into(),
            clock,
            ports,
            vlans,
            stations,
            trace,
            pins,
            created,
            notices: Some(notices),
            probing,
            program_id: info.id(),
            ebpf,
        })
    }

    /// Says how frames leave that the kernel would send by these interfaces, see
    /// [`Vlans::set`].
    ///
    /// # Errors
    /// The kernel's answer.
    pub fn set_vlans(&mut self, vlans: &BTreeMap<u32, Leaving>) -> Result<(), LoadError> {
        let set = self.vlans.set(&mut self.ports, vlans);
        set.map_err(|error| LoadError::Map(maps::VLANS, error))
    }

    /// Says what is behind ports of bridges, see [`Stations::set`].
    ///
    /// # Errors
    /// The kernel's answer.
    pub fn set_stations(&mut self, stations: &[(Station, u32)]) -> Result<(), LoadError> {
        let set = self.stations.set(&self.tables, stations);
        set.map_err(|error| LoadError::Map(maps::STATIONS, error))
    }

    /// The ring that tells what packets met; once.
    pub fn take_notices(&mut self) -> Option<RingBuf<MapData>> {
        self.notices.take()
    }

    /// The loaded object, for the program's own log.
    pub fn ebpf_mut(&mut self) -> &mut Ebpf {
        &mut self.ebpf
    }

    /// The data plane's second, see [`lb_common::flow::second`].
    ///
    /// # Errors
    /// The kernel refused to run the program.
    pub fn now(&self) -> Result<u16, LoadError> {
        self.clock.now().map(|now| now.second).map_err(clock_failed)
    }

    /// Removes all pins, as if it had never been loaded: for a first start
    /// that failed half-way.
    ///
    /// # Errors
    /// The kernel refused.
    pub fn undo(self) -> Result<(), PinError> {
        let path = self.pins.path().to_owned();
        self.pins.clear()?;
        drop(self);
        fs::remove_dir(&path).map_err(|source| PinError::io("remove", &path, source))
    }
}

fn clock_failed(error: ProgramError) -> LoadError {
    LoadError::Program(maps::CLOCK_PROGRAM, error)
}

/// Whether an initialised data plane is pinned; it must fit `options`.
fn adoptable(pins: &PinDir, options: &Options) -> Result<bool, LoadError> {
    let pin = pins.pin(maps::CONFIG);
    if !pin.exists() {
        return Ok(false);
    }
    let path = || pins.path().to_owned();
    let expected = limits::ABI_VERSION;
    let layout = |found| LoadError::Layout { path: path(), found, expected };
    let data = MapData::from_pin(&pin)
        .map_err(|error| LoadError::Map(maps::CONFIG, io::Error::other(error)))?;
    let config: Mapped<Config> = mapped_data(&data, maps::CONFIG).map_err(|_| layout(0))?;
    let config = config.read(0);
    if config.abi == 0 {
        return Ok(false);
    }
    if config.abi != expected {
        return Err(layout(config.abi));
    }
    let (found, expected) = (config.flow_mask + 1, limits::flow_buckets(options.flows));
    if found != expected {
        return Err(LoadError::Flows { path: path(), found, expected });
    }
    if options.hash_seed.is_some_and(|seed| seed != config.slot_seed) {
        return Err(LoadError::Seed(path()));
    }
    Ok(true)
}

/// Fills in a new `CONFIG`, `abi` last: before that it counts as never made.
fn initialise(config: &Mapped<Config>, options: &Options) -> Result<(), LoadError> {
    if config.read(0).abi != 0 {
        return Ok(());
    }
    let [a, b, c, d] = random().map_err(LoadError::Random)?;
    let entry = Config {
        flow_mask: limits::flow_buckets(options.flows) - 1,
        tick_scale: link::tick_scale()?,
        place_seed: options.place_seed.unwrap_or([a, b]),
        slot_seed: options.hash_seed.unwrap_or([c, d]),
        ..Config::ZERO
    };
    config.write(0, &entry);
    config.word32(0, offset_of!(Config, abi)).store(limits::ABI_VERSION, Ordering::Release);
    Ok(())
}

/// Has flows placed by this secret. By another one nobody would find them
/// again, so where there was another, all are forgotten.
fn place_anew(tables: &Tables, seed: [u64; 2]) {
    if tables.config.read(0).place_seed == seed {
        return;
    }
    for (word, value) in seed.into_iter().enumerate() {
        let at = tables.config.word64(0, offset_of!(Config, place_seed) + word * size_of::<u64>());
        at.store(value, Ordering::Release);
    }
    let forgotten = tables.flows.clear(0..tables.flows.entries(), |_, _| true);
    tables.proxied.release(0..tables.proxied.entries(), |_, _| true);
    tracing::warn!(
        forgotten,
        "flows are placed by the pair's key, and were placed otherwise: recorded flows are forgotten"
    );
}

fn random() -> io::Result<[u64; 4]> {
    let mut words = [0u64; 4];
    // SAFETY: a buffer of exactly this size; requests up to 256 bytes are
    // answered whole (getrandom(2)).
    let got = unsafe { libc::getrandom(words.as_mut_ptr().cast(), size_of_val(&words), 0) };
    if got == size_of_val(&words) as isize { Ok(words) } else { Err(io::Error::last_os_error()) }
}

fn tables(pins: &PinDir) -> Result<Tables, LoadError> {
    Ok(Tables {
        config: mapped(pins, maps::CONFIG)?,
        endpoints: mapped(pins, maps::ENDPOINTS)?,
        services: mapped(pins, maps::SERVICES)?,
        addresses: mapped(pins, maps::ADDRESSES)?,
        allow: mapped(pins, maps::ALLOW)?,
        backends: mapped(pins, maps::BACKENDS)?,
        lines: mapped(pins, maps::TABLES)?,
        flows: mapped(pins, maps::FLOWS)?.into(),
        bindings: mapped(pins, maps::BINDINGS)?.into(),
        proxied: mapped(pins, maps::PROXIED)?.into(),
        kernel: Box::new(Kernel {
            deny_v4: typed(pins, maps::DENY_V4, LpmTrie::try_from)?,
            deny_v6: typed(pins, maps::DENY_V6, LpmTrie::try_from)?,
            routes: RouteMap::read(typed(pins, maps::ROUTES, LpmTrie::try_from)?)
                .map_err(|error| LoadError::Map(maps::ROUTES, error))?,
            quic: QuicMaps::read(
                typed(pins, maps::QUIC_CONFIGS, Array::try_from)?,
                typed(pins, maps::QUIC_SERVERS, HashMap::try_from)?,
            )
            .map_err(|error| LoadError::Map(maps::QUIC_SERVERS, error))?,
            stats: typed(pins, maps::BACKEND_STATS, PerCpuArray::try_from)?,
            counters: typed(pins, maps::COUNTERS, PerCpuArray::try_from)?,
        }),
    })
}

/// A pinned map. The object keeps its own: programs that are loaded later refer to them by
/// descriptors.
fn typed<T>(
    pins: &PinDir,
    name: &'static str,
    convert: impl FnOnce(Map) -> Result<T, MapError>,
) -> Result<T, LoadError> {
    let map = MapData::from_pin(pins.pin(name)).and_then(Map::from_map_data);
    map.and_then(convert).map_err(|error| LoadError::Map(name, io::Error::other(error)))
}

fn mapped<T: Pod>(pins: &PinDir, name: &'static str) -> Result<Mapped<T>, LoadError> {
    let array = |map| match map {
        Map::Array(data) => Ok(data),
        _ => Err(MapError::InvalidMapType { map_type: 0 }),
    };
    let data = typed(pins, name, array)?;
    mapped_data(&data, name)
}

/// Maps an array after a look at what the kernel says of it: an adopted map is
/// not what the object declares, but what its maker declared.
fn mapped_data<T: Pod>(data: &MapData, name: &'static str) -> Result<Mapped<T>, LoadError> {
    let info = data.info().map_err(|error| LoadError::Map(name, io::Error::other(error)))?;
    let expected = size_of::<T>();
    if info.value_size() as usize != expected {
        let text = format!("entries of {} bytes, expected {expected}", info.value_size());
        return Err(LoadError::Map(name, io::Error::new(io::ErrorKind::InvalidData, text)));
    }
    Mapped::of_map(data.fd().as_fd(), info.max_entries())
        .map_err(|error| LoadError::Map(name, error))
}
