//! The programs of the object: loaded when they are needed, pinned, and led to.

use std::{
    fs, io,
    thread::{self, ScopedJoinHandle},
    time::Instant,
};

use aya::{
    Ebpf,
    maps::ProgramArray,
    programs::{ProgramError, Xdp},
};
use lb_common::{config::features, maps};

use super::{DataPlane, LoadError, typed};
use crate::{
    core::plan::Operation,
    dataplane::pins::{PinDir, PinError},
};

/// Programs that every packet may need.
const ALWAYS: [&str; 3] = [maps::PROGRAM, maps::FRAGMENT_PROGRAM, maps::CLOCK_PROGRAM];

/// Loads and pins what every packet may need, all at once: the kernel's verifier takes
/// its time over each.
pub(super) fn load(ebpf: &mut Ebpf, pins: &PinDir) -> Result<(), LoadError> {
    thread::scope(|scope| {
        let mut loading = Vec::new();
        for (found, program) in ebpf.programs_mut() {
            let Some(name) = ALWAYS.into_iter().find(|name| *name == found) else { continue };
            loading.push(scope.spawn(move || {
                let program = program.try_into();
                program.and_then(|program| verify(name, program)).map_err(refused(name))
            }));
        }
        let join = |one: ScopedJoinHandle<'_, _>| {
            one.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        };
        loading.into_iter().try_for_each(join)
    })?;
    lead_to(ebpf, pins, maps::FRAGMENT_PATH, maps::FRAGMENT_PROGRAM)?;
    ALWAYS.into_iter().try_for_each(|name| pin(program(ebpf, name)?, pins, name))
}

impl DataPlane {
    /// Loads the programs that packets of some services go on in, where these operations
    /// bring the first such service: who has none does not wait for the verifier.
    ///
    /// # Errors
    /// The kernel refuses one; packets are treated as before.
    pub fn load_for(&mut self, operations: &[Operation]) -> Result<(), LoadError> {
        for operation in operations {
            let Operation::WriteBank(bank) = operation else { continue };
            if bank.generation.features & features::FULLNAT != 0 {
                self.load_path(maps::FULLNAT_PATH, maps::FULLNAT_PROGRAM)?;
            }
            if bank.services.values().any(|service| service.syn_rate != 0) {
                self.load_path(maps::SYNPROXY_PATH, maps::SYNPROXY_PROGRAM)?;
            }
            if bank.services.values().any(|service| service.quic != 0) {
                self.load_path(maps::QUIC_PATH, maps::QUIC_PROGRAM)?;
            }
        }
        Ok(())
    }

    /// A program that tail calls by way of a map go to. What an earlier agent left there
    /// goes on until then.
    fn load_path(&mut self, path: &'static str, name: &'static str) -> Result<(), LoadError> {
        if self.load_once(name)? {
            lead_to(&mut self.ebpf, &self.pins, path, name).inspect_err(|_| {
                // So that it is tried again.
                let _ = program(&mut self.ebpf, name).map(Xdp::unload);
            })?;
        }
        Ok(())
    }

    /// Loads and pins a program that is not loaded yet; whether it was not.
    pub(in crate::dataplane) fn load_once(
        &mut self,
        name: &'static str,
    ) -> Result<bool, LoadError> {
        let program = program(&mut self.ebpf, name)?;
        if program.fd().is_ok() {
            return Ok(false);
        }
        verify(name, program).map_err(refused(name))?;
        pin(program, &self.pins, name).inspect_err(|_| {
            let _ = program.unload();
        })?;
        Ok(true)
    }
}

/// Has the kernel verify a program.
fn verify(name: &str, program: &mut Xdp) -> Result<(), ProgramError> {
    let begun = Instant::now();
    program.load()?;
    let (verified, took) = (program.info()?.verified_instruction_count(), begun.elapsed());
    tracing::debug!(program = name, verified, ?took, "the kernel has verified it");
    Ok(())
}

/// Has the calls by way of a map go to a program.
fn lead_to(
    ebpf: &mut Ebpf,
    pins: &PinDir,
    path: &'static str,
    to: &'static str,
) -> Result<(), LoadError> {
    let fd = program(ebpf, to)?.fd().and_then(|fd| Ok(fd.try_clone()?)).map_err(refused(to))?;
    let mut path_map = typed(pins, path, ProgramArray::try_from)?;
    path_map.set(0, &fd, 0).map_err(|error| LoadError::Map(path, io::Error::other(error)))
}

fn refused(name: &'static str) -> impl Fn(ProgramError) -> LoadError {
    move |error| LoadError::Program(name, error)
}

pub(in crate::dataplane) fn program<'a>(
    ebpf: &'a mut Ebpf,
    name: &'static str,
) -> Result<&'a mut Xdp, LoadError> {
    let program = ebpf.program_mut(name).ok_or(ProgramError::NotLoaded);
    program.and_then(TryInto::try_into).map_err(refused(name))
}

/// Pins under another name first: the pin of an earlier program is replaced
/// at once.
pub(in crate::dataplane) fn pin(
    program: &mut Xdp,
    pins: &PinDir,
    name: &'static str,
) -> Result<(), LoadError> {
    let (pin, new) = (pins.pin(name), pins.pin(&format!("{name}_new")));
    pins.remove(&new)?;
    program.pin(&new).map_err(|error| LoadError::Pin(name, error))?;
    fs::rename(&new, &pin).map_err(|source| PinError::io("replace", &pin, source).into())
}
