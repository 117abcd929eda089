//! Attaches the programs that send probes of `dsr` services to the VIP. Their
//! links are not pinned: whichever way the agent ends, they end with it.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    sync::Arc,
};

use aya::{
    Ebpf,
    programs::{
        LinkOrder, ProgramError, SchedClassifier, TcAttachType,
        tc::{SchedClassifierLink, TcAttachOptions},
    },
};
use lb_common::maps;

use super::load::{DataPlane, LoadError};

/// The programs, each with the direction of what it rewrites.
const PROGRAMS: [(&str, TcAttachType); 2] = [
    (maps::PROBE_IN_PROGRAM, TcAttachType::Ingress),
    (maps::PROBE_OUT_PROGRAM, TcAttachType::Egress),
];

/// Probes cannot be sent to VIPs.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// The kernel refused a program when the data plane was loaded.
    #[error(transparent)]
    Load(Arc<LoadError>),
    /// The kernel refused to attach one.
    #[error(
        "the kernel refused program `{program}` at interface `{interface}`, expected one that has \
         tcx (Linux 6.6) and room for one more"
    )]
    Attach {
        /// The program's name.
        program: &'static str,
        /// The interface's name.
        interface: String,
        /// Why.
        source: ProgramError,
    },
}

/// The programs, and where they are attached.
pub(super) struct Probing {
    /// Whether they are loaded. Forwarding goes on without them.
    loaded: Result<(), Arc<LoadError>>,
    /// By index of the interface. What is dropped is detached.
    links: BTreeMap<u32, Vec<SchedClassifierLink>>,
}

impl Probing {
    /// Loads the programs.
    pub(super) fn load(ebpf: &mut Ebpf) -> Self {
        let loaded = PROGRAMS.into_iter().try_for_each(|(name, _)| {
            let refused = |error| Arc::new(LoadError::Program(name, error));
            program(ebpf, name).and_then(SchedClassifier::load).map_err(refused)
        });
        Self { loaded, links: BTreeMap::new() }
    }
}

impl DataPlane {
    /// Has marked probes sent to VIPs at these interfaces (indexes by name),
    /// and at no others. An interface that went away and came back has
    /// another index.
    ///
    /// # Errors
    /// The kernel refused; some interfaces may be done.
    pub fn rewrite_probes(&mut self, interfaces: &BTreeMap<&str, u32>) -> Result<(), ProbeError> {
        let Self { probing: Probing { loaded, links }, ebpf, .. } = self;
        links.retain(|index, _| interfaces.values().any(|wanted| wanted == index));
        for (&name, &index) in interfaces {
            loaded.clone().map_err(ProbeError::Load)?;
            if let Entry::Vacant(here) = links.entry(index) {
                here.insert(attach_both(ebpf, name)?);
            }
        }
        Ok(())
    }
}

fn attach_both(ebpf: &mut Ebpf, interface: &str) -> Result<Vec<SchedClassifierLink>, ProbeError> {
    let links = PROGRAMS.into_iter().map(|(program, direction)| {
        let name = interface.to_owned();
        let refused = |source| ProbeError::Attach { program, interface: name, source };
        attach(ebpf, program, interface, direction).map_err(refused)
    });
    links.collect()
}

/// Attaches before all other programs: these may end a packet's way, ours
/// never does.
fn attach(
    ebpf: &mut Ebpf,
    name: &'static str,
    interface: &str,
    direction: TcAttachType,
) -> Result<SchedClassifierLink, ProgramError> {
    let program = program(ebpf, name)?;
    let first = TcAttachOptions::TcxOrder(LinkOrder::first());
    let link = program.attach_with_options(interface, direction, first)?;
    program.take_link(link)
}

fn program<'a>(
    ebpf: &'a mut Ebpf,
    name: &'static str,
) -> Result<&'a mut SchedClassifier, ProgramError> {
    ebpf.program_mut(name).ok_or(ProgramError::NotLoaded)?.try_into()
}
