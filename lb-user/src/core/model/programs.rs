//! Programs that a configuration has the agent run.

use std::collections::HashSet;

use super::{Model, health::Probe};

impl Model {
    /// A command of an `exec` probe that `other` has nowhere.
    #[must_use]
    pub fn program_beyond(&self, other: &Self) -> Option<&[String]> {
        let known: HashSet<_> = other.programs().collect();
        self.programs().find(|command| !known.contains(command))
    }

    fn programs(&self) -> impl Iterator<Item = &[String]> {
        self.services.iter().filter_map(|service| match &service.health.probe {
            Probe::Exec(command) => Some(command.as_slice()),
            _ => None,
        })
    }
}

#[cfg(test)]
mod tests {
    use crate::core::model::{Mode, Protocol, health::Probe, sample};

    #[test]
    fn a_program_is_known_by_all_its_words_whatever_service_has_it() {
        let model = |commands: &[&str]| {
            let services = commands.iter().map(|command| {
                let mut service = sample::service("10.0.0.1", (80, 80), Protocol::Tcp, Mode::Nat);
                service.health.probe = Probe::Exec(command.split(' ').map(Into::into).collect());
                service
            });
            sample::model(services.collect())
        };
        let known = model(&["/a", "/b -x"]);
        assert_eq!(model(&["/b -x", "/b -x", "/a"]).program_beyond(&known), None);
        assert_eq!(model(&[]).program_beyond(&known), None);
        assert_eq!(model(&["/a", "/b -y"]).program_beyond(&known).unwrap(), ["/b", "-y"]);
        assert_eq!(model(&["/b"]).program_beyond(&known).unwrap(), ["/b"]);
    }
}
