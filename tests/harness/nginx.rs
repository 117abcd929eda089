//! A web server that tells its name.

use std::{fs, net::TcpStream, path::Path, time::Duration};

use super::{Error, Netns, Process, Result};

/// Ports it listens on, all with the same answers.
pub(super) const PORTS: [u16; 3] = [80, 8080, 8443];

/// nginx in a namespace: `/` answers its name and a line feed, `/1k` a body of
/// 1 KiB, `/1m` one of 1 MiB. One process, connections are kept alive for as long as clients like.
#[derive(Debug)]
pub struct Nginx {
    _process: Process,
}

impl Nginx {
    /// Starts a server that calls itself `name`; its files go to `dir`.
    ///
    /// # Errors
    /// It cannot be started or does not listen.
    pub fn start(netns: &Netns, name: &str, dir: &Path) -> Result<Self> {
        let failed = || Error::io(format!("prepare nginx in `{}`", dir.display()));
        fs::create_dir_all(dir).map_err(failed())?;
        for (name, length) in [("1k", 1 << 10), ("1m", 1 << 20)] {
            fs::write(dir.join(name), vec![b'x'; length]).map_err(failed())?;
        }
        let file = dir.join("nginx.conf");
        fs::write(&file, configuration(name, dir)).map_err(failed())?;
        let mut command = netns.command("nginx");
        let mut process = Process::start(command.arg("-e").arg("stderr").arg("-c").arg(&file))?;
        let limit = Duration::from_secs(10);
        process.wait_for("listening server", limit, |_| listens(netns))?;
        Ok(Self { _process: process })
    }
}

fn listens(netns: &Netns) -> bool {
    netns
        .within(|| PORTS.iter().all(|&port| TcpStream::connect(("::1", port)).is_ok()))
        .unwrap_or(false)
}

fn configuration(name: &str, dir: &Path) -> String {
    let dir = dir.display();
    let listen: String = PORTS
        .iter()
        .map(|port| format!("listen [::]:{port} ipv6only=off backlog=4096;\n        "))
        .collect();
    // One process without a master: the one we start is the one we end.
    format!(
        "daemon off;
master_process off;
pid {dir}/nginx.pid;
error_log stderr warn;
events {{
    worker_connections 8192;
}}
http {{
    access_log off;
    client_body_temp_path {dir}/body;
    proxy_temp_path {dir}/proxy;
    fastcgi_temp_path {dir}/fastcgi;
    scgi_temp_path {dir}/scgi;
    uwsgi_temp_path {dir}/uwsgi;
    open_file_cache max=16;
    tcp_nodelay on;
    keepalive_timeout 1h;
    keepalive_requests 100000000;
    server {{
        {listen}location = / {{ add_header Asked $arg_number; return 200 \"{name}\\n\"; }}
        location = /1k {{ root {dir}; }}
        location = /1m {{ root {dir}; }}
    }}
}}
"
    )
}
