//! The programs of the object: loaded, pinned, and led to.

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
use lb_common::maps;

use super::{LoadError, typed};
use crate::dataplane::pins::{PinDir, PinError};

/// Has the calls by way of a map go to a program.
pub(super) fn lead_to(
    ebpf: &mut Ebpf,
    path: &'static str,
    to: &'static str,
) -> Result<(), LoadError> {
    let fd = program(ebpf, to)?.fd().and_then(|fd| Ok(fd.try_clone()?));
    let fd = fd.map_err(|error| LoadError::Program(to, error))?;
    let mut path_map = typed(ebpf, path, ProgramArray::try_from)?;
    path_map.set(0, &fd, 0).map_err(|error| LoadError::Map(path, io::Error::other(error)))
}

/// Loads all programs at once: the kernel's verifier takes its time over each.
pub(super) fn load_all(ebpf: &mut Ebpf) -> Result<(), LoadError> {
    thread::scope(|scope| {
        let mut loading = Vec::new();
        for (found, program) in ebpf.programs_mut() {
            let Some(name) = maps::PROGRAMS.into_iter().find(|name| *name == found) else {
                continue;
            };
            loading.push(scope.spawn(move || {
                let begun = Instant::now();
                let program: Result<&mut Xdp, _> = program.try_into();
                let info = program.and_then(|program| program.load().and_then(|()| program.info()));
                let info = info.map_err(|error| LoadError::Program(name, error))?;
                let (verified, took) = (info.verified_instruction_count(), begun.elapsed());
                tracing::debug!(program = name, verified, ?took, "the kernel has verified it");
                Ok(())
            }));
        }
        let join = |one: ScopedJoinHandle<'_, _>| {
            one.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        };
        loading.into_iter().try_for_each(join)
    })
}

pub(in crate::dataplane) fn program<'a>(
    ebpf: &'a mut Ebpf,
    name: &'static str,
) -> Result<&'a mut Xdp, LoadError> {
    let missing = LoadError::Program(name, ProgramError::NotLoaded);
    let program = ebpf.program_mut(name).ok_or(missing)?;
    program.try_into().map_err(|error| LoadError::Program(name, error))
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
