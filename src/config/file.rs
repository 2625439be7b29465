//! The configuration file: TOML, one key per setting, named as in redis.conf.

use std::io::Write;
use std::path::{Path, PathBuf};

use thiserror::Error;
use toml_edit::{DocumentMut, Item, Value as TomlValue};

use super::settings::Settings;
use super::spec::{FACT, Kind, REPLICATED, SENSITIVE, Spec};

/// Why the file cannot be used.
#[derive(Debug, Error)]
pub enum FileError {
    /// It cannot be read.
    #[error("{path}: {why}", path = .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why. No source of this error: its text would be told twice.
        why: std::io::Error,
    },
    /// It is not TOML.
    #[error("{path}: {why}", path = .path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// Where and why.
        why: Box<toml_edit::TomlError>,
    },
    /// A value of a kind that no setting has.
    #[error("{path}: {key} must be a string, a number, true, false, or an array of those", path = .path.display())]
    Shape {
        /// The file.
        path: PathBuf,
        /// The key.
        key: String,
    },
}

/// Why CONFIG REWRITE failed; the texts are Redis'.
#[derive(Debug, Error)]
pub enum RewriteError {
    /// The process was started without a file.
    #[error("ERR The server is running without a config file")]
    NoFile,
    /// Reading, writing or renaming failed.
    #[error("ERR Rewriting config file: {0}")]
    Io(#[from] std::io::Error),
    /// Somebody has made the file unreadable since the start.
    #[error("ERR Rewriting config file: it is no longer valid TOML")]
    Syntax,
    /// A secret set at run time would be told to everybody who may read the file.
    #[error("ERR Rewriting config file: others may read it, and {0} would stand in it: let only its owner read it")]
    Readable(&'static str),
}

/// Names and values of a file, in its order.
pub(super) fn read(path: &Path) -> Result<Vec<(String, String)>, FileError> {
    let text = std::fs::read_to_string(path).map_err(|why| FileError::Read { path: path.to_path_buf(), why })?;
    let document: DocumentMut =
        text.parse().map_err(|why| FileError::Syntax { path: path.to_path_buf(), why: Box::new(why) })?;
    document
        .iter()
        .map(|(key, item)| match item.as_value().and_then(as_text) {
            Some(value) => Ok((key.to_owned(), value)),
            None => Err(FileError::Shape { path: path.to_path_buf(), key: key.to_owned() }),
        })
        .collect()
}

fn as_text(value: &TomlValue) -> Option<String> {
    match value {
        TomlValue::String(text) => Some(text.value().clone()),
        TomlValue::Integer(number) => Some(number.value().to_string()),
        TomlValue::Boolean(truth) => Some(if *truth.value() { "yes" } else { "no" }.to_owned()),
        TomlValue::Array(values) => {
            let words: Option<Vec<String>> = values.iter().map(as_text).collect();
            words.map(|words| words.join(" "))
        }
        _ => None,
    }
}

impl Settings {
    /// CONFIG REWRITE: writes the values in force into the file and leaves its comments, order and everything else
    /// alone. A setting that is not in the file is added if it was given and is not at its default. Settings of the
    /// group are not the file's business, and secrets that flags have given are not either. The file is replaced as a whole, or not at all.
    pub fn rewrite(&self) -> Result<(), RewriteError> {
        let path = self.file().ok_or(RewriteError::NoFile)?;
        let _one_at_a_time = self.inner.changing.lock();
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
            Err(error) => return Err(error.into()),
        };
        let mut document: DocumentMut = text.parse().map_err(|_| RewriteError::Syntax)?;
        for index in 0..self.count() {
            let spec = self.spec_at(index);
            if spec.has(REPLICATED | FACT) {
                continue;
            }
            let value = self.text_at(index);
            let key = [spec.name, spec.alias].into_iter().find(|name| !name.is_empty() && document.contains_key(name));
            let secret = spec.has(SENSITIVE);
            if secret && self.is_by_flag(index) {
                continue;
            }
            match key {
                Some(key) => replace(&mut document[key], spec, &value),
                None if secret && *value != *spec.default_value().text && others_may_read(path) => {
                    return Err(RewriteError::Readable(spec.name));
                }
                None if self.is_given(index) && *value != *spec.default_value().text => {
                    document[spec.name] = toml_edit::value(as_toml(spec, &value));
                }
                None => {}
            }
        }
        write_whole(path, document.to_string().as_bytes())?;
        Ok(())
    }
}

/// Puts a new value where the old one stands, and keeps the comment behind it. A value that says the same stays as it
/// was written (`1gb`, `true`).
fn replace(item: &mut Item, spec: &Spec, text: &str) {
    let Some(old) = item.as_value_mut() else {
        return;
    };
    let same = as_text(old).and_then(|written| spec.read(text, &written).ok()).is_some_and(|value| value.text == text);
    if same {
        return;
    }
    let mut new = match old {
        TomlValue::Boolean(_) => TomlValue::from(text == "yes"),
        _ => as_toml(spec, text),
    };
    *new.decor_mut() = old.decor().clone();
    *old = new;
}

fn as_toml(spec: &Spec, text: &str) -> TomlValue {
    match (spec.kind, text.parse::<i64>()) {
        (Kind::Int(..) | Kind::Memory(..) | Kind::Millis(..), Ok(number)) => TomlValue::from(number),
        _ => TomlValue::from(text),
    }
}

/// A file that is not there yet is made for its owner alone.
fn others_may_read(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    std::fs::metadata(path).is_ok_and(|meta| meta.permissions().mode() & 0o044 != 0)
}

/// The file may hold secrets: the new one is readable to no more than the old one was.
fn write_whole(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    use std::os::unix::fs::OpenOptionsExt;
    // A link stays a link: what it points to is replaced.
    let path = std::fs::canonicalize(path).unwrap_or_else(|_| path.to_path_buf());
    let permissions = std::fs::metadata(&path).map(|meta| meta.permissions()).ok();
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    name.push(format!(".{}.new", std::process::id()));
    let temporary = path.with_file_name(name);
    let write = || {
        let mut file =
            std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
        if let Some(permissions) = permissions {
            file.set_permissions(permissions)?;
        }
        file.write_all(bytes)?;
        file.sync_all()?;
        std::fs::rename(&temporary, &path)?;
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        std::fs::File::open(parent)?.sync_all()
    };
    write().inspect_err(|_| {
        let _ = std::fs::remove_file(&temporary);
    })
}
