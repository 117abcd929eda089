//! HTTP clients: curl for single requests, wrk for load.

use std::{
    collections::BTreeMap,
    process::{Child, Stdio},
    time::Duration,
};

use super::{Error, Netns, Result, command::line, finish, run};

/// Asks for `url` over a connection of its own and returns the body.
///
/// # Errors
/// curl's own, such as no connection within two seconds.
pub fn curl(netns: &Netns, url: &str) -> Result<String> {
    let mut command = netns.command("curl");
    command.args(["--silent", "--show-error", "--fail", "--globoff", "--noproxy", "*"]);
    command.args(["--connect-timeout", "2", "--max-time", "5", url]);
    run(&mut command, Duration::from_secs(10)).map(|output| output.stdout)
}

/// Asks `requests` times, each over a connection of its own, and counts who
/// answered.
///
/// # Errors
/// One of the requests fails.
pub fn spread(netns: &Netns, url: &str, requests: usize) -> Result<BTreeMap<String, usize>> {
    let mut answers = BTreeMap::new();
    for _ in 0..requests {
        *answers.entry(curl(netns, url)?.trim().to_owned()).or_default() += 1;
    }
    Ok(answers)
}

/// What wrk is to do.
#[derive(Clone, Debug)]
pub struct Load {
    /// Where to.
    pub url: String,
    /// Threads of wrk.
    pub threads: u32,
    /// Connections at once.
    pub connections: u32,
    /// For how long.
    pub duration: Duration,
    /// One connection for each request, instead of keeping them.
    pub close: bool,
}

/// What wrk saw.
#[derive(Clone, Debug, PartialEq)]
pub struct LoadReport {
    /// Answered requests.
    pub requests: u64,
    /// Answered requests per second.
    pub rate: f64,
    /// Connections that could not be made or broke, reads and writes that
    /// failed, and timeouts.
    pub socket_errors: u64,
    /// Answers other than 2xx and 3xx.
    pub bad_answers: u64,
    /// All that wrk printed.
    pub text: String,
}

/// A wrk that runs.
#[derive(Debug)]
pub struct RunningLoad {
    child: Option<Child>,
    name: String,
}

impl Load {
    /// 32 kept connections for two seconds.
    #[must_use]
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            threads: 1,
            connections: 32,
            duration: Duration::from_secs(2),
            close: false,
        }
    }

    fn command(&self, netns: &Netns) -> std::process::Command {
        let mut command = netns.command("wrk");
        command.args(["--timeout", "5s"]);
        command.arg("--threads").arg(self.threads.to_string());
        command.arg("--connections").arg(self.connections.to_string());
        command.arg("--duration").arg(format!("{}s", self.duration.as_secs()));
        if self.close {
            command.args(["--header", "Connection: close"]);
        }
        command.arg(&self.url);
        command
    }

    /// Runs it to its end.
    ///
    /// # Errors
    /// wrk fails or prints what is no report.
    pub fn run(&self, netns: &Netns) -> Result<LoadReport> {
        let limit = self.duration + Duration::from_secs(15);
        let output = finish(&mut self.command(netns), limit)?;
        LoadReport::parse(&format!("{}{}", output.stdout, output.stderr))
    }

    /// Starts it and goes on.
    ///
    /// # Errors
    /// wrk cannot be started.
    pub fn start(&self, netns: &Netns) -> Result<RunningLoad> {
        let mut command = self.command(netns);
        let name = line(&command);
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|source| Error::Start { command: name.clone(), source })?;
        Ok(RunningLoad { child: Some(child), name })
    }
}

impl RunningLoad {
    /// Ends it now instead of when its time is over.
    ///
    /// # Errors
    /// Those of [`Self::report`].
    pub fn end(self) -> Result<LoadReport> {
        if let Some(child) = &self.child {
            // SAFETY: a child that was not waited for, so the id is still its own.
            unsafe { libc::kill(child.id().cast_signed(), libc::SIGINT) };
        }
        self.report()
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// wrk fails or prints what is no report.
    pub fn report(mut self) -> Result<LoadReport> {
        let Some(child) = self.child.take() else {
            return Err(Error::Unexpected { what: self.name.clone(), found: "no child".into() });
        };
        let output = child.wait_with_output().map_err(Error::io(self.name.clone()))?;
        let text = [output.stdout, output.stderr].concat();
        LoadReport::parse(&String::from_utf8_lossy(&text))
    }
}

impl Drop for RunningLoad {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl LoadReport {
    /// Reads what wrk prints. Lines about errors are there only if there were
    /// some: `Socket errors: connect 1, read 2, write 0, timeout 0` and
    /// `Non-2xx or 3xx responses: 7`.
    fn parse(text: &str) -> Result<Self> {
        let unexpected = || Error::Unexpected { what: "wrk's report".into(), found: text.into() };
        let after = |prefix: &str| text.lines().find_map(|line| line.trim().strip_prefix(prefix));
        let rate = after("Requests/sec:").and_then(|rest| rest.trim().parse().ok());
        let requests = text
            .lines()
            .find_map(|line| line.trim().split_once(" requests in "))
            .and_then(|(number, _)| number.parse().ok());
        let socket_errors = after("Socket errors:").map_or(Some(0), |rest| {
            rest.split(',').map(|part| part.split_whitespace().nth(1)?.parse::<u64>().ok()).sum()
        });
        let bad_answers =
            after("Non-2xx or 3xx responses:").map_or(Some(0), |rest| rest.trim().parse().ok());
        Ok(Self {
            requests: requests.ok_or_else(unexpected)?,
            rate: rate.ok_or_else(unexpected)?,
            socket_errors: socket_errors.ok_or_else(unexpected)?,
            bad_answers: bad_answers.ok_or_else(unexpected)?,
            text: text.to_owned(),
        })
    }

    /// Whether requests were answered and none failed.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.requests > 0 && self.socket_errors == 0 && self.bad_answers == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLEAN: &str = "Running 2s test @ http://203.0.113.10/1k
  1 threads and 32 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency   412.11us  101.00us   4.12ms   91.00%
    Req/Sec    75.01k     1.22k   77.00k    60.00%
  149300 requests in 2.00s, 180.00MB read
Requests/sec:  74650.12
Transfer/sec:     90.00MB
";

    #[test]
    fn a_report_without_error_lines_is_clean() {
        let report = LoadReport::parse(CLEAN).unwrap();
        assert_eq!((report.requests, report.rate), (149_300, 74_650.12));
        assert!(report.is_clean());
    }

    #[test]
    fn all_kinds_of_errors_are_counted() {
        let errors = "  Socket errors: connect 1, read 20, write 300, timeout 4000
  Non-2xx or 3xx responses: 7
";
        let report = LoadReport::parse(&format!("{CLEAN}{errors}")).unwrap();
        assert_eq!((report.socket_errors, report.bad_answers), (4321, 7));
        assert!(!report.is_clean());
    }

    #[test]
    fn what_is_no_report_is_refused() {
        assert!(LoadReport::parse("unable to connect to 203.0.113.10:80").is_err());
    }
}
