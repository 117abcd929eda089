//! `cargo xtask bench`: figures, each beside what it is compared with.

mod baseline;
mod control;
mod driver;
mod figures;
mod flood;
mod frame;
mod ha;
mod link;
mod object;
mod os;
mod packet;
mod process;
mod wrk;

use std::{env, fs, os::unix::process::CommandExt as _, path::PathBuf};

use anyhow::{Context as _, Result, ensure};
use serde::Serialize;

use crate::{
    setup::{Purpose, setup},
    shell, test,
};

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Arguments {
    /// What to measure
    #[arg(value_enum, default_value_t = Subject::All)]
    subject: Subject,
    /// Write the figures to this file too
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// `packet`: measure another build of the balancer by turns, too (an `lb`), and say
    /// how the figures differ
    #[arg(long, value_name = "LB")]
    against: Option<PathBuf>,
    /// `packet`: only rows whose names contain this, and what they are compared with
    #[arg(long, value_name = "TEXT", default_value = "")]
    rows: String,
    /// Fewer and shorter runs: figures for a look, not for publishing
    #[arg(long)]
    quick: bool,
    /// Everything is installed and built: the balancer's binary, the bench's
    /// eBPF programs, and the program that builds Maglev tables
    #[arg(long, value_names = ["LB", "OBJECT", "MAGLEV"], num_args = 3, hide = true)]
    built: Option<Vec<PathBuf>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Subject {
    /// Nanoseconds per packet
    Packet,
    /// Only what `packet` compares the balancer with
    Baselines,
    /// Requests per second
    Wrk,
    /// Only what `wrk` compares the balancer with
    Rivals,
    /// Time until changes are in force, cost of probes, memory
    Control,
    /// Two balancers: flow sync, and takeover beside keepalived
    Ha,
    /// Requests per second beside floods
    Flood,
    /// `packet`, `wrk`, `control`, `ha` and `flood`
    All,
}

impl Subject {
    fn needs_balancer(self) -> bool {
        !matches!(self, Self::Baselines | Self::Rivals)
    }
}

/// What was measured.
#[derive(Debug, Default, Serialize)]
struct Figures {
    #[serde(skip_serializing_if = "Option::is_none")]
    packet: Option<packet::Report>,
    #[serde(skip_serializing_if = "Option::is_none")]
    wrk: Option<wrk::Report>,
    #[serde(skip_serializing_if = "Option::is_none")]
    control: Option<figures::Report>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ha: Option<figures::Report>,
    #[serde(skip_serializing_if = "Option::is_none")]
    flood: Option<figures::Report>,
}

/// Measures, prints tables, writes the file.
///
/// # Errors
/// A lab or a program cannot be made, or what was measured did not do what it
/// is there for: a figure of that is none. Or limits are missed; the figures are there
/// then.
pub(crate) fn bench(arguments: &Arguments) -> Result<()> {
    let built = match arguments.built.as_deref() {
        Some([binary, object, maglev]) => {
            Built { binary: binary.clone(), object: object.clone(), maglev: maglev.clone() }
        }
        _ => build(arguments.subject)?,
    };
    if !shell::is_root() {
        return again_as_root(arguments, &built);
    }
    os::catch_interrupts();
    for lab in lb_tests::harness::sweep()? {
        eprintln!("removed what an earlier run left: {lab}");
    }
    warn_if_busy()?;
    let figures = measure(arguments, &built)?;
    if let Some(path) = &arguments.json {
        let text = serde_json::to_string_pretty(&figures)?;
        fs::write(path, text + "\n").with_context(|| format!("write `{}`", path.display()))?;
    }
    let reports = [&figures.control, &figures.ha, &figures.flood].into_iter().flatten();
    let missed: usize = reports.map(figures::Report::misses).sum();
    ensure!(missed == 0, "{missed} of the limits above are missed");
    Ok(())
}

fn measure(arguments: &Arguments, built: &Built) -> Result<Figures> {
    let Built { binary, object, maglev } = built;
    let object = &match arguments.subject {
        Subject::Control => Vec::new(),
        _ => fs::read(object).with_context(|| format!("read `{}`", object.display()))?,
    };
    let quick = arguments.quick;
    let mut figures = Figures::default();
    let effort = if quick { packet::Effort::QUICK } else { packet::Effort::FULL };
    figures.packet = match arguments.subject {
        Subject::Packet | Subject::All => {
            let choice =
                packet::Choice { rows: &arguments.rows, against: arguments.against.as_deref() };
            Some(packet::run(object, binary, choice, effort)?)
        }
        Subject::Baselines => Some(packet::baselines(object, effort)?),
        Subject::Wrk | Subject::Rivals | Subject::Control | Subject::Ha | Subject::Flood => None,
    };
    // At once: the rest takes its time.
    if let Some(report) = &figures.packet {
        println!("{report}");
    }
    let effort = if quick { wrk::Effort::QUICK } else { wrk::Effort::FULL };
    figures.wrk = match arguments.subject {
        Subject::Wrk | Subject::All => Some(wrk::run(object, binary, effort)?),
        Subject::Rivals => Some(wrk::rivals(object, effort)?),
        Subject::Packet | Subject::Baselines | Subject::Control | Subject::Ha | Subject::Flood => {
            None
        }
    };
    if let Some(report) = &figures.wrk {
        println!("{report}");
    }
    if matches!(arguments.subject, Subject::Control | Subject::All) {
        let effort = if quick { control::Effort::QUICK } else { control::Effort::FULL };
        let report = control::run(binary, maglev, effort)?;
        println!("{report}");
        figures.control = Some(report);
    }
    if matches!(arguments.subject, Subject::Ha | Subject::All) {
        let effort = if quick { ha::Effort::QUICK } else { ha::Effort::FULL };
        let report = ha::run(object, binary, effort)?;
        println!("{report}");
        figures.ha = Some(report);
    }
    if matches!(arguments.subject, Subject::Flood | Subject::All) {
        let effort = if quick { flood::Effort::QUICK } else { flood::Effort::FULL };
        let report = flood::run(binary, effort)?;
        println!("{report}");
        figures.flood = Some(report);
    }
    Ok(figures)
}

/// Tells that others use the machine: what stands side by side remains so,
/// but all of it is slower, and under load unevenly.
fn warn_if_busy() -> Result<()> {
    let text = fs::read_to_string("/proc/loadavg").context("read `/proc/loadavg`")?;
    let load: f64 = text.split(' ').next().unwrap_or_default().parse()?;
    // Building may well have kept one processor busy just before.
    if load > 1.5 {
        eprintln!("warning: the machine is busy (load {load}): do not publish these figures");
    }
    Ok(())
}

/// What is run; a path is empty where the subject needs none.
#[derive(Default)]
struct Built {
    /// The balancer.
    binary: PathBuf,
    /// The bench's eBPF programs.
    object: PathBuf,
    /// What builds Maglev tables.
    maglev: PathBuf,
}

/// Sets up and builds the balancer, if it is measured, and the programs.
fn build(subject: Subject) -> Result<Built> {
    let world = setup(Purpose::Test)?;
    let mut built = Built::default();
    if subject.needs_balancer() {
        built.binary = test::build()?;
        shell::run(&mut shell::cargo(&["build", "--release", "--package", "lb-bench-maglev"]))?;
        built.maglev = built.binary.with_file_name("lb-bench-maglev");
    }
    if subject != Subject::Control {
        built.object = object::build(world)?;
    }
    Ok(built)
}

/// Runs this program again with root's rights for what needs them, so that
/// whatever was built belongs to the user.
fn again_as_root(arguments: &Arguments, built: &Built) -> Result<()> {
    let Built { binary, object, maglev } = built;
    let mut words = shell::as_root(&[])?;
    words.extend([env::current_exe().context("cannot find this program")?.into(), "bench".into()]);
    let subject = clap::ValueEnum::to_possible_value(&arguments.subject);
    words.extend(subject.map(|subject| subject.get_name().into()));
    if let Some(json) = &arguments.json {
        words.extend(["--json".into(), std::path::absolute(json)?.into()]);
    }
    if let Some(against) = &arguments.against {
        words.extend(["--against".into(), std::path::absolute(against)?.into()]);
    }
    words.extend(["--rows".into(), arguments.rows.clone().into()]);
    if arguments.quick {
        words.push("--quick".into());
    }
    words.extend(["--built".into(), binary.into(), object.into(), maglev.into()]);
    let mut command = shell::command(&words[0]);
    Err(command.args(&words[1..]).exec()).context("cannot start sudo")
}

/// The median of what it sorts; of an even number of values the mean of the
/// middle two.
fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => values[n / 2],
        n => f64::midpoint(values[n / 2 - 1], values[n / 2]),
    }
}
