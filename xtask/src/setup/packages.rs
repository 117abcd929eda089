//! Debian packages.

use std::{fs, path::Path};

use anyhow::{Context as _, bail};

use crate::shell;

/// A script that says whether services may be started (Debian's policy for
/// `invoke-rc.d`).
const POLICY: &str = "/usr/sbin/policy-rc.d";

/// Installs those of `packages` that are missing.
pub(super) fn ensure(packages: &[&str]) -> anyhow::Result<()> {
    if !shell::has("dpkg-query") {
        // Another distribution: the tools will be missed by name, if at all.
        return check_tools(packages);
    }
    let missing: Vec<_> = packages.iter().copied().filter(|package| !installed(package)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    eprintln!("installing Debian packages: {}", missing.join(" "));
    let listed = available(&missing);
    if !listed {
        update()?;
    }
    // nginx and haproxy would start as services of this machine.
    let _policy = NoServices::new()?;
    let mut install = apt()?;
    install.args(["install", "--yes", "--no-install-recommends"]).args(&missing);
    let mut installed = shell::run(&mut install);
    if installed.is_err() && listed {
        // The lists may be of versions that the archive has replaced since.
        update()?;
        installed = shell::run(&mut install);
    }
    installed.with_context(|| format!("cannot install {}", missing.join(", ")))
}

/// Whether packages can be had, after a look at the lists that are here.
pub(super) fn available(packages: &[&str]) -> bool {
    packages.iter().all(|package| {
        let mut policy = shell::command("apt-cache");
        policy.env("LC_ALL", "C").args(["policy", package]);
        shell::answer(&mut policy).is_some_and(|text| {
            let candidate = text.lines().find_map(|line| line.trim().strip_prefix("Candidate: "));
            candidate.is_some_and(|version| version != "(none)")
        })
    })
}

/// Fetches the lists of packages.
pub(super) fn update() -> anyhow::Result<()> {
    shell::run(apt()?.arg("update"))
}

fn installed(package: &str) -> bool {
    let mut query = shell::command("dpkg-query");
    query.args(["--show", "--showformat", "${db:Status-Status}", package]);
    shell::answer(&mut query).is_some_and(|status| status == "installed")
}

fn apt() -> anyhow::Result<std::process::Command> {
    let mut apt = shell::root_command("env")?;
    apt.args(["DEBIAN_FRONTEND=noninteractive", "apt-get", "--quiet=2"]);
    Ok(apt)
}

/// Looks for the programs of packages that we cannot install.
fn check_tools(packages: &[&str]) -> anyhow::Result<()> {
    let missing: Vec<_> = packages.iter().filter(|p| !shell::has(program(p))).collect();
    if !missing.is_empty() {
        bail!("install {missing:?} first: this is no Debian, where it would be done for you");
    }
    Ok(())
}

/// The program by which a package is known to be there.
fn program(package: &str) -> &str {
    match package {
        "g++" => "c++",
        "iproute2" => "ip",
        "iputils-ping" => "ping",
        "nftables" => "nft",
        "nginx-light" => "nginx",
        "python3-maxminddb" => "python3",
        "python3-scapy" => "scapy",
        other => other,
    }
}

/// Keeps packages from starting services while they are installed.
struct NoServices {
    ours: bool,
}

impl NoServices {
    fn new() -> anyhow::Result<Self> {
        if Path::new(POLICY).exists() {
            return Ok(Self { ours: false });
        }
        let text = "#!/bin/sh\nexit 101\n";
        let mut install = shell::root_command("install")?;
        let draft = std::env::temp_dir().join(format!("lb-policy-{}", std::process::id()));
        fs::write(&draft, text).with_context(|| format!("write `{}`", draft.display()))?;
        install.args(["-m", "755"]).arg(&draft).arg(POLICY);
        let installed = shell::run(&mut install);
        fs::remove_file(&draft).with_context(|| format!("remove `{}`", draft.display()))?;
        installed.map(|()| Self { ours: true })
    }
}

impl Drop for NoServices {
    fn drop(&mut self) {
        let remove = |mut command: std::process::Command| shell::run(command.args(["-f", POLICY]));
        if self.ours
            && let Err(error) = shell::root_command("rm").and_then(remove)
        {
            eprintln!("remove `{POLICY}` yourself, services do not start otherwise: {error:#}");
        }
    }
}
