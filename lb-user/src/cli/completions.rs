//! `lb completions`.

use clap::CommandFactory as _;
use clap_complete::Shell;

use super::{Cli, Failure, console::Console};

/// Print completions for a shell
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  lb completions bash > /etc/bash_completion.d/lb
  lb completions zsh > /usr/local/share/zsh/site-functions/_lb
  lb completions fish > ~/.config/fish/completions/lb.fish")]
pub(super) struct Completions {
    /// The shell
    shell: Shell,
}

impl Completions {
    pub(super) fn run(self, console: &mut Console<'_>) -> Result<(), Failure> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut Cli::command(), "lb", &mut script);
        console.write(&script)
    }
}
