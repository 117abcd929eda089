//! Asking a lab's agent, as an operator does.

use std::{collections::BTreeMap, time::Duration};

use serde_json::Value;

use super::{Error, Lab, Node, Output, Result, finish, run};

/// How long an answer of the agent may take.
const ANSWER: Duration = Duration::from_secs(20);

impl Lab {
    /// A command of `lb` that asks the lab's agent.
    ///
    /// # Errors
    /// It cannot be started, or takes too long.
    pub fn ask(&self, words: &[&str]) -> Result<Output> {
        finish(self.lb().arg("--socket").arg(self.socket()).args(words), ANSWER)
    }

    /// What a command prints that does what it is asked.
    ///
    /// # Errors
    /// Those of [`Self::ask`]; the command fails.
    pub fn done(&self, words: &[&str]) -> Result<Output> {
        run(self.lb().arg("--socket").arg(self.socket()).args(words), ANSWER)
    }

    /// What a command says that fails with an exit status.
    ///
    /// # Errors
    /// Those of [`Self::ask`]; it ends otherwise; it prints something beside
    /// its message, or a message without `error:`.
    pub fn refused(&self, status: i32, words: &[&str]) -> Result<String> {
        let Output { status: found, stdout, stderr } = self.ask(words)?;
        let says = stderr.lines().any(|line| line.starts_with("error: "));
        if found.code() == Some(status) && stdout.is_empty() && says {
            return Ok(stderr);
        }
        let what = format!("`lb {}` to fail with {status}", words.join(" "));
        Err(Error::Unexpected { what, found: format!("{found}: {stdout}{stderr}") })
    }

    /// The JSON that a command prints.
    ///
    /// # Errors
    /// Those of [`Self::ask`]; the command fails; what it prints is no JSON.
    pub fn json(&self, words: &[&str]) -> Result<Value> {
        let mut all = vec!["--json"];
        all.extend(words);
        parse(words, self.ask(&all)?)
    }

    /// Number of the generation in force.
    ///
    /// # Errors
    /// Those of [`Self::json`]; there is none.
    pub fn generation(&self) -> Result<u64> {
        let status = self.json(&["status"])?;
        let unexpected =
            || Error::Unexpected { what: "generation".into(), found: status.to_string() };
        status["generation"].as_u64().ok_or_else(unexpected)
    }

    /// A field of every backend of a service, by the backend's name.
    ///
    /// # Errors
    /// Those of [`Self::json`]; there is no list.
    pub fn backends_by(&self, service: &str, field: &str) -> Result<BTreeMap<String, Value>> {
        by_name(&self.json(&["backend", "list", service])?, field)
    }
}

impl Node {
    /// What a command prints that does what it is asked.
    ///
    /// # Errors
    /// Those of [`Lab::done`].
    pub fn done(&self, words: &[&str]) -> Result<Output> {
        run(self.lb().arg("--socket").arg(self.socket()).args(words), ANSWER)
    }

    /// The JSON that a command prints.
    ///
    /// # Errors
    /// Those of [`Lab::json`].
    pub fn json(&self, words: &[&str]) -> Result<Value> {
        let mut command = self.lb();
        command.arg("--socket").arg(self.socket()).arg("--json").args(words);
        parse(words, finish(&mut command, ANSWER)?)
    }

    /// A field of each of a service's backends, by name.
    ///
    /// # Errors
    /// Those of [`Self::json`].
    pub fn backends_by(&self, service: &str, field: &str) -> Result<BTreeMap<String, Value>> {
        by_name(&self.json(&["backend", "list", service])?, field)
    }

    /// A field of every group of its pair, by the group's name.
    ///
    /// # Errors
    /// Those of [`Self::json`]; there is no list.
    pub fn groups_by(&self, field: &str) -> Result<BTreeMap<String, Value>> {
        by_name(&self.json(&["ha", "status"])?["groups"], field)
    }
}

fn parse(words: &[&str], output: Output) -> Result<Value> {
    serde_json::from_str(&output.stdout).map_err(|error| Error::Unexpected {
        what: format!("`lb {}`: {error}", words.join(" ")),
        found: output.stdout + &output.stderr,
    })
}

/// A field of every object of a list, by the object's name.
fn by_name(list: &Value, field: &str) -> Result<BTreeMap<String, Value>> {
    let unexpected = || Error::Unexpected { what: "list".into(), found: list.to_string() };
    let all = list.as_array().ok_or_else(unexpected)?.iter();
    let named = |one: &Value| Some((one["name"].as_str()?.to_owned(), one[field].clone()));
    Ok(all.filter_map(named).collect())
}
