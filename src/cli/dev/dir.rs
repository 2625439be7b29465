//! The directory of a development group, and where each member stands. It is marked, so that `--fresh` never deletes
//! anything that `quorate dev` has not made, and locked, so that two of them cannot run on it.

use std::fs::{File, TryLockError};
use std::io::{Read, Seek, Write};
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

const MARKER: &str = ".quorate-dev";
const DEFAULT_MEMBERS: u16 = 3;
const DEFAULT_BASE_PORT: u16 = 7001;

/// What was asked for; `None`: as it was, or the default.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Shape {
    pub(super) members: Option<u16>,
    pub(super) base_port: Option<u16>,
}

/// A marked and locked directory.
#[derive(Debug)]
pub(super) struct DevDir {
    path: PathBuf,
    members: u16,
    base_port: u16,
    /// Holds the lock.
    _marker: File,
}

impl DevDir {
    pub(super) fn open(path: &Path, wished: Shape, fresh: bool) -> anyhow::Result<Self> {
        let shown = path.display();
        std::fs::create_dir_all(path).with_context(|| format!("cannot make {shown}"))?;
        let path = path.canonicalize().with_context(|| format!("cannot use {shown}"))?;
        let marker = path.join(MARKER);
        let is_empty = std::fs::read_dir(&path)?.next().is_none();
        if !is_empty && !marker.is_file() {
            bail!("{shown} is not empty and was not made by 'quorate dev': choose another directory with --dir");
        }
        let mut file = File::options().read(true).write(true).create(true).truncate(false).open(&marker)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => bail!("another 'quorate dev' runs in {shown}"),
            Err(TryLockError::Error(error)) => return Err(error).context(format!("cannot lock {shown}")),
        }
        if fresh {
            wipe(&path)?;
        }
        let mut text = String::new();
        file.read_to_string(&mut text).with_context(|| format!("cannot read {}", marker.display()))?;
        // One that could not be begun, as where a port was taken, has left the marker and no member: nothing binds it.
        let kept = if !fresh && has_members(&path)? { read_marker(&text) } else { Shape::default() };
        if let (Some(kept), Some(wished)) = (kept.base_port, wished.base_port)
            && kept != wished
        {
            bail!(
                "the group in {shown} has its members at the ports from {kept}; leave --base-port away, or begin anew \
                 with --fresh"
            );
        }
        let dir = DevDir {
            members: wished.members.or(kept.members).unwrap_or(DEFAULT_MEMBERS),
            base_port: kept.base_port.or(wished.base_port).unwrap_or(DEFAULT_BASE_PORT),
            path,
            _marker: file.try_clone()?,
        };
        let text = format!(
            "# Made by 'quorate dev', which may delete what is in here.\nmembers = {}\nbase-port = {}\n",
            dir.members, dir.base_port
        );
        file.rewind()?;
        file.set_len(0)?;
        file.write_all(text.as_bytes())?;
        Ok(dir)
    }

    pub(super) fn slots(&self) -> Vec<Slot> {
        (1..=self.members)
            .map(|number| Slot { number, port: self.base_port + number - 1, root: self.path.clone() })
            .collect()
    }
}

fn read_marker(text: &str) -> Shape {
    let value = |name: &str| {
        let line = text.lines().filter_map(|line| line.split_once(" = ")).find(|(key, _)| *key == name)?;
        line.1.trim().parse().ok()
    };
    Shape { members: value("members"), base_port: value("base-port") }
}

/// Whether some member has been started here.
fn has_members(path: &Path) -> std::io::Result<bool> {
    for entry in std::fs::read_dir(path)? {
        if entry?.file_name().to_str().is_some_and(|name| name.starts_with("member-")) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Deletes what members have left, and nothing else.
fn wipe(path: &Path) -> anyhow::Result<()> {
    for entry in std::fs::read_dir(path)? {
        let entry = entry?;
        let name = entry.file_name();
        let Some(rest) = name.to_str().and_then(|name| name.strip_prefix("member-")) else { continue };
        let number = rest.strip_suffix(".log").unwrap_or(rest);
        if number.is_empty() || !number.bytes().all(|byte| byte.is_ascii_digit()) {
            continue;
        }
        let path = entry.path();
        // Not through a link: what it points to was not made here.
        let gone =
            if entry.file_type()?.is_dir() { std::fs::remove_dir_all(&path) } else { std::fs::remove_file(&path) };
        gone.with_context(|| format!("cannot delete {}", path.display()))?;
    }
    Ok(())
}

/// Where one member stands.
#[derive(Clone, Debug)]
pub(super) struct Slot {
    /// From 1; usually the member's id, but the group gives ids.
    pub(super) number: u16,
    /// For clients.
    pub(super) port: u16,
    root: PathBuf,
}

impl Slot {
    pub(super) fn client(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    pub(super) fn peer(&self) -> String {
        format!("127.0.0.1:{}", self.port + 10_000)
    }

    pub(super) fn admin(&self) -> String {
        format!("127.0.0.1:{}", self.admin_port())
    }

    pub(super) fn admin_port(&self) -> u16 {
        self.port + 1_000
    }

    pub(super) fn admin_url(&self) -> String {
        format!("http://{}", self.admin())
    }

    fn data_path(&self) -> PathBuf {
        self.root.join(format!("member-{}", self.number))
    }

    pub(super) fn log_path(&self) -> String {
        self.root.join(format!("member-{}.log", self.number)).display().to_string()
    }

    /// It belongs to a group already.
    pub(super) fn has_identity(&self) -> bool {
        self.data_path().join("IDENTITY").exists()
    }

    /// The flags of `serve` that never change.
    pub(super) fn arguments(&self) -> Vec<String> {
        [
            "serve",
            "--exit-with-parent",
            "--dir",
            &self.data_path().display().to_string(),
            "--port",
            &self.port.to_string(),
            "--peer",
            &self.peer(),
            "--admin",
            &self.admin(),
        ]
        .map(str::to_owned)
        .to_vec()
    }

    /// Says so before anything is started if another program has one of the ports.
    pub(super) fn check_ports(&self) -> anyhow::Result<()> {
        for port in [self.port, self.port + 10_000, self.port + 1_000] {
            TcpListener::bind((Ipv4Addr::LOCALHOST, port))
                .with_context(|| format!("port {port} cannot be used; choose others with --base-port"))?;
        }
        Ok(())
    }
}
