//! The configuration file: [`mod@file`] mirrors the TOML value by value, [`check`]
//! turns the mirror into a [`Model`] by the rules that hold between values.
//! Whatever is wrong, every [`mistake`] is reported in one go.

pub mod check;
pub mod file;
mod json;
pub mod local;
pub mod mistake;
pub mod overlay;
pub mod read;
pub mod render;
pub mod shared;
pub mod surprise;
#[cfg(test)]
mod tests;
pub mod value;

use std::{
    fs::{self, File},
    io::{self, Read as _},
    path::Path,
};

use crate::{
    api::Table,
    core::model::{Model, Service},
};
pub use check::check_together;
pub use mistake::{Errors, Mistake};

/// Where Linux tells the host name, the default of `node.name`.
const HOST_NAME: &str = "/proc/sys/kernel/hostname";

/// Larger files are refused; ten times what fills all maps.
const MOST_BYTES: u64 = 64 << 20;

/// A configuration file.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// What it says.
    pub model: Model,
    /// Its text.
    pub text: String,
}

/// Reads and checks the file at `path`. `interfaces`, unless empty, replaces
/// `node.interfaces` (the command line's `--interface`).
///
/// # Errors
/// The file cannot be read, or the mistakes in it, all of them.
pub fn load(path: &Path, interfaces: &[String]) -> Result<Loaded, Errors> {
    load_text(&path.display().to_string(), read_file(path)?, interfaces)
}

/// Checks a configuration file's text; see [`load`]. `name` is for messages.
///
/// # Errors
/// The mistakes in it, all of them.
pub fn load_text(name: &str, text: String, interfaces: &[String]) -> Result<Loaded, Errors> {
    let host_name = fs::read_to_string(HOST_NAME).unwrap_or_default();
    let host_name = host_name.trim();
    let surroundings = Surroundings {
        host_name: if host_name.is_empty() { "localhost" } else { host_name },
        interfaces,
    };
    let file = name.to_owned();
    match parse(&text, surroundings) {
        Ok(model) => Ok(Loaded { model, text }),
        Err(mistakes) => Err(Errors::Mistakes { file, mistakes }),
    }
}

/// Reads the text of the file at `path`, whatever it says.
///
/// # Errors
/// The file cannot be read, or is no text.
pub fn read_file(path: &Path) -> Result<String, Errors> {
    let file = path.display().to_string();
    read_text(path).map_err(|source| Errors::Unreadable { file, source })
}

/// Reads a regular file of a sane size: the agent reads its file while it has
/// other things to do, and a pipe could keep it for ever.
fn read_text(path: &Path) -> io::Result<String> {
    let metadata = fs::metadata(path)?;
    if !metadata.is_file() {
        return Err(io::Error::other("not a regular file"));
    }
    if metadata.len() > MOST_BYTES {
        return Err(io::Error::other(format!("larger than {MOST_BYTES} bytes")));
    }
    let mut bytes = Vec::new();
    File::open(path)?.take(MOST_BYTES).read_to_end(&mut bytes)?;
    String::from_utf8(bytes).map_err(|error| {
        let line = 1 + error.as_bytes()[..error.utf8_error().valid_up_to()]
            .iter()
            .filter(|byte| **byte == b'\n')
            .count();
        io::Error::new(io::ErrorKind::InvalidData, format!("line {line} is not UTF-8"))
    })
}

/// What a configuration takes from elsewhere than its text.
#[derive(Clone, Copy, Debug)]
pub struct Surroundings<'a> {
    /// Default of `node.name`.
    pub host_name: &'a str,
    /// Unless empty, stands for `node.interfaces`.
    pub interfaces: &'a [String],
}

/// Checks the text of a configuration.
///
/// # Errors
/// Every mistake, in the order of the text.
pub fn parse(text: &str, surroundings: Surroundings<'_>) -> Result<Model, Vec<Mistake>> {
    let (file, mut mistakes) = file::read(text);
    let model = file.and_then(|file| check::check(file, surroundings, &mut mistakes));
    mistakes.sort_by(|a, b| (a.line, &a.path).cmp(&(b.line, &b.path)));
    match model {
        Some(model) if mistakes.is_empty() => Ok(model),
        _ => Err(mistakes),
    }
}

/// Reads one service from its keys, by the rules of a file that hold for it
/// alone; see [`check_together`] for the others. A key that is null is as if
/// it were not there.
///
/// # Errors
/// Every mistake, with paths such as `service.web.backend.web-1.weight`.
pub fn service_from(table: &Table) -> Result<Service, Vec<Mistake>> {
    let name = table.get("name").and_then(|name| name.as_str());
    let path = match name.filter(|name| value::is_name(name)) {
        Some(name) => format!("service.{name}"),
        None => "service".to_owned(),
    };
    let (service, mut mistakes) = file::read_service(&json::toml(table), &path);
    let service = service.and_then(|service| check::check_service(service, &mut mistakes));
    mistakes.sort_by(|a, b| a.path.cmp(&b.path));
    match service {
        Some(service) if mistakes.is_empty() => Ok(service),
        _ => Err(mistakes),
    }
}
