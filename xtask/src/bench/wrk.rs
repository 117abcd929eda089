//! Requests per second, side by side: the balancer, the least that XDP can do
//! on these devices, and what people use otherwise. All of them run in the
//! same lab with the same offload settings, in turn, round after round.

mod contender;
mod report;

use std::{path::Path, time::Duration};

use anyhow::{Context as _, Result, ensure};
use lb_tests::harness::{Lab, Load, LoadReport, spread};

use self::contender::{Contender, RIVALS};
use super::os::go_on;

pub(super) use self::report::Report;

/// Backends, each an nginx.
const BACKENDS: usize = lb_bench::BACKENDS;
/// Port of the service and of its backends.
const PORT: u16 = 80;
/// Requests before a contender is measured for the first time, after which
/// every backend must have answered.
const GREETINGS: usize = 40;

/// How much is measured.
#[derive(Clone, Copy, Debug)]
pub(super) struct Effort {
    /// How often every contender is measured.
    pub(super) rounds: usize,
    /// Length of one measurement.
    pub(super) duration: Duration,
}

impl Effort {
    /// For figures to publish.
    pub(super) const FULL: Self = Self { rounds: 5, duration: Duration::from_secs(5) };
    /// For a look.
    pub(super) const QUICK: Self = Self { rounds: 2, duration: Duration::from_secs(2) };
}

/// What the clients do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Style {
    /// Requests over connections that stay.
    KeepAlive,
    /// One connection per request.
    Close,
}

impl Style {
    const ALL: [Self; 2] = [Self::KeepAlive, Self::Close];

    fn name(self) -> &'static str {
        match self {
            Self::KeepAlive => "keep-alive",
            Self::Close => "connection per request",
        }
    }
}

/// One measurement.
struct Sample {
    contender: Contender,
    style: Style,
    rate: f64,
    errors: u64,
}

/// Measures all contenders.
pub(super) fn run(object: &[u8], binary: &Path, effort: Effort) -> Result<Report> {
    let lab = Lab::new(BACKENDS)?.with_binary(binary);
    measure(&lab, object, &Contender::ALL, effort)
}

/// Measures all but the balancer, which need not be built for it.
pub(super) fn rivals(object: &[u8], effort: Effort) -> Result<Report> {
    measure(&Lab::new(BACKENDS)?, object, &RIVALS, effort)
}

fn measure(lab: &Lab, object: &[u8], contenders: &[Contender], effort: Effort) -> Result<Report> {
    for netns in [&lab.client, &lab.balancer] {
        netns.sysctl(&[("ipv4/ip_local_port_range", "1024 65535"), ("ipv4/tcp_tw_reuse", "1")])?;
    }
    let mut samples = Vec::new();
    for round in 0..effort.rounds {
        eprintln!("wrk: round {} of {}", round + 1, effort.rounds);
        // Everybody goes first once.
        let start = round % contenders.len();
        for &contender in contenders[start..].iter().chain(&contenders[..start]) {
            one(lab, object, contender, round == 0, effort, &mut samples)
                .with_context(|| format!("measure `{}`", contender.name()))?;
        }
    }
    Ok(Report::of(contenders, &samples))
}

/// One contender's turn.
fn one(
    lab: &Lab,
    object: &[u8],
    contender: Contender,
    first: bool,
    effort: Effort,
    samples: &mut Vec<Sample>,
) -> Result<()> {
    go_on()?;
    let running = contender.start(lab, object)?;
    let url = format!("http://{}:{PORT}", contender.vip());
    if first {
        let answers = spread(&lab.client, &url, GREETINGS)?;
        ensure!(answers.len() == BACKENDS, "answers: {answers:?}, expected {BACKENDS} backends");
    }
    for style in Style::ALL {
        go_on()?;
        let load = Load {
            url: format!("{url}/1k"),
            threads: 2,
            connections: 64,
            duration: effort.duration,
            close: style == Style::Close,
        };
        let report = load.run(&lab.client)?;
        go_on()?;
        let LoadReport { rate, socket_errors, bad_answers, ref text, .. } = report;
        let errors = socket_errors + bad_answers;
        ensure!(
            errors == 0 || !contender.is_lb(),
            "{errors} errors with {}, expected none:\n{text}",
            style.name()
        );
        samples.push(Sample { contender, style, rate, errors });
    }
    running.stop(lab)
}
