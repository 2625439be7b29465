//! The values of all settings of one member.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};

use parking_lot::{Mutex, RwLock};
use quorate_keyspace::glob;
use thiserror::Error;

use super::accepted::INERT_SETTINGS;
use super::check::Unsafe;
use super::file::{self, FileError};
use super::spec::{HIDDEN, INERT, SENSITIVE, Spec, UNTOLD, Value};
use super::table::{Id, LIVE};

/// Why the settings given at the start cannot be used.
#[derive(Debug, Error)]
pub enum LoadError {
    /// The file cannot be read or is not TOML.
    #[error(transparent)]
    File(#[from] FileError),
    /// There is no such setting.
    #[error("{origin}: there is no setting '{name}'{}", did_you_mean(.name))]
    Unknown {
        /// The file, or "flag".
        origin: String,
        /// As it was given.
        name: String,
    },
    /// The value does not fit.
    #[error("{origin}: {name} = '{value}': {problem}")]
    Invalid {
        /// The file, or "flag".
        origin: String,
        /// The setting.
        name: &'static str,
        /// As it was given; hidden for secrets.
        value: String,
        /// Why it does not fit.
        problem: String,
    },
    /// Each value fits, but together they are not safe or cannot work.
    #[error(transparent)]
    Unsafe(#[from] Unsafe),
}

fn did_you_mean(name: &str) -> String {
    let closeness = |spec: &Spec| strsim::jaro_winkler(name, spec.name);
    let best = specs().max_by(|a, b| closeness(a).total_cmp(&closeness(b)));
    match best {
        Some(spec) if closeness(spec) > 0.85 => format!(" (is '{}' meant?)", spec.name),
        _ => String::new(),
    }
}

/// Called after a setting has changed. An error takes the whole CONFIG SET back.
pub(super) type Hook = Arc<dyn Fn(&Settings) -> Result<(), String> + Send + Sync>;

/// The values of all settings of one member. A cheap handle: clones see the same values.
#[derive(Clone)]
pub struct Settings {
    pub(super) inner: Arc<Inner>,
}

pub(super) struct Inner {
    slots: Box<[Slot]>,
    /// Lower-case names and aliases.
    names: BTreeMap<&'static str, usize>,
    file: Option<PathBuf>,
    hooks: RwLock<Vec<(usize, Hook)>>,
    /// Held through a change, so that two of them do not mix.
    pub(super) changing: Mutex<()>,
    generation: AtomicU64,
}

struct Slot {
    spec: &'static Spec,
    number: AtomicI64,
    text: RwLock<Arc<str>>,
    /// Said in the file, by a flag or by CONFIG SET.
    given: AtomicBool,
    /// Last said by a flag.
    by_flag: AtomicBool,
}

/// All settings, those that do something first.
pub fn specs() -> impl Iterator<Item = &'static Spec> {
    LIVE.iter().chain(INERT_SETTINGS)
}

impl Default for Settings {
    fn default() -> Self {
        Self::with_file(None)
    }
}

impl std::fmt::Debug for Settings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let given = self.inner.slots.iter().filter(|slot| slot.given.load(Ordering::Relaxed));
        let shown = given.map(|slot| {
            let text = slot.text.read().clone();
            (slot.spec.name, if slot.spec.has(SENSITIVE) { "(hidden)".into() } else { text })
        });
        f.debug_map().entries(shown).finish()
    }
}

impl Settings {
    /// All settings at their defaults. `file` is where [`Settings::rewrite`] writes to; it is not read.
    pub fn with_file(file: Option<PathBuf>) -> Self {
        let slots: Box<[Slot]> = specs()
            .map(|spec| {
                let value = spec.default_value();
                Slot {
                    spec,
                    number: AtomicI64::new(value.number),
                    text: RwLock::new(value.text.into()),
                    given: AtomicBool::new(false),
                    by_flag: AtomicBool::new(false),
                }
            })
            .collect();
        let mut names = BTreeMap::new();
        for (index, slot) in slots.iter().enumerate() {
            for name in [slot.spec.name, slot.spec.alias].into_iter().filter(|name| !name.is_empty()) {
                let twice = names.insert(name, index);
                assert!(twice.is_none(), "two settings are named {name}");
            }
        }
        let inner = Inner {
            slots,
            names,
            file,
            hooks: RwLock::default(),
            changing: Mutex::default(),
            generation: AtomicU64::new(0),
        };
        Settings { inner: Arc::new(inner) }
    }

    /// What the process starts with: the file, then what flags say, checked as a whole.
    pub fn load(file: Option<&Path>, flags: &[(String, String)]) -> Result<Self, LoadError> {
        let settings = Self::with_file(file.map(Path::to_path_buf));
        if let Some(path) = file {
            for (name, value) in file::read(path)? {
                settings.give(&path.display().to_string(), &name, &value)?;
            }
        }
        for (name, value) in flags {
            let index = settings.give("flag", name, value)?;
            settings.inner.slots[index].by_flag.store(true, Ordering::Relaxed);
        }
        settings.check()?;
        Ok(settings)
    }

    /// Settings for a test: the defaults, and these.
    pub fn of(pairs: &[(&str, &str)]) -> Result<Self, LoadError> {
        let flags: Vec<_> = pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Self::load(None, &flags)
    }

    fn give(&self, origin: &str, name: &str, value: &str) -> Result<usize, LoadError> {
        let index =
            self.index(name).ok_or_else(|| LoadError::Unknown { origin: origin.to_owned(), name: name.to_owned() })?;
        let spec = self.inner.slots[index].spec;
        let value = spec.read(&self.text_at(index), value).map_err(|problem| LoadError::Invalid {
            origin: origin.to_owned(),
            name: spec.name,
            value: if spec.has(SENSITIVE) { "(hidden)".to_owned() } else { value.to_owned() },
            problem,
        })?;
        self.store(index, value);
        Ok(index)
    }

    /// The configuration file, if there is one.
    pub fn file(&self) -> Option<&Path> {
        self.inner.file.as_deref()
    }

    /// Counts changes: a cached copy is old when this has moved.
    pub fn generation(&self) -> u64 {
        self.inner.generation.load(Ordering::Acquire)
    }

    /// Number, truth (1 or 0), or index of the word.
    pub fn number(&self, id: Id) -> i64 {
        self.inner.slots[id as usize].number.load(Ordering::Relaxed)
    }

    /// The text that CONFIG GET shows.
    pub fn text(&self, id: Id) -> Arc<str> {
        self.text_at(id as usize)
    }

    /// The value of the setting of that name or alias, in any case, as CONFIG GET shows it.
    pub fn get(&self, name: &str) -> Option<String> {
        self.index(name).map(|index| self.shown(index))
    }

    /// CONFIG GET: names and values of what matches any of the patterns, each once. A name without a pattern in it is
    /// answered as it was asked for. The secret and the admin token are not told.
    pub fn matching(&self, patterns: &[&[u8]]) -> Vec<(String, String)> {
        let mut found: Vec<(String, usize)> = Vec::new();
        let mut add = |name: &str, index: usize| {
            let untold = self.inner.slots[index].spec.has(UNTOLD);
            if !untold && !found.iter().any(|(known, _)| known.eq_ignore_ascii_case(name)) {
                found.push((name.to_owned(), index));
            }
        };
        for pattern in patterns {
            if pattern.iter().any(|byte| b"[*?".contains(byte)) {
                for (name, index) in &self.inner.names {
                    let hidden = self.inner.slots[*index].spec.has(HIDDEN);
                    if !hidden && glob::matches_nocase(pattern, name.as_bytes()) {
                        add(name, *index);
                    }
                }
            } else if let Ok(name) = std::str::from_utf8(pattern)
                && let Some(index) = self.index(name)
            {
                add(name, index);
            }
        }
        found.into_iter().map(|(name, index)| (name, self.shown(index))).collect()
    }

    /// True for a setting whose value must not be logged or shown in the slow log.
    pub fn is_sensitive(name: &[u8]) -> bool {
        specs().any(|spec| {
            spec.has(SENSITIVE)
                && (name.eq_ignore_ascii_case(spec.name.as_bytes()) || name.eq_ignore_ascii_case(spec.alias.as_bytes()))
        })
    }

    /// What was asked for at the start or later and has no effect here: for one warning in the log.
    pub fn without_effect(&self) -> Vec<&'static str> {
        let slots = self.inner.slots.iter();
        slots
            .filter(|slot| slot.spec.has(INERT) && **slot.text.read() != *slot.spec.default_value().text)
            .map(|slot| slot.spec.name)
            .collect()
    }

    /// Lets `hook` be called after CONFIG SET has changed this setting. Its error is told to the client, and all
    /// that the command changed is taken back.
    pub fn on_change(&self, id: Id, hook: impl Fn(&Settings) -> Result<(), String> + Send + Sync + 'static) {
        self.inner.hooks.write().push((id as usize, Arc::new(hook)));
    }

    pub(super) fn hooks_of(&self, index: usize) -> Vec<Hook> {
        let hooks = self.inner.hooks.read();
        hooks.iter().filter(|(at, _)| *at == index).map(|(_, hook)| hook.clone()).collect()
    }

    pub(super) fn index(&self, name: &str) -> Option<usize> {
        self.inner.names.get(name.to_ascii_lowercase().as_str()).copied()
    }

    pub(super) fn spec_at(&self, index: usize) -> &'static Spec {
        self.inner.slots[index].spec
    }

    pub(super) fn text_at(&self, index: usize) -> Arc<str> {
        self.inner.slots[index].text.read().clone()
    }

    pub(super) fn value_at(&self, index: usize) -> Value {
        let slot = &self.inner.slots[index];
        let text = slot.text.read();
        Value { number: slot.number.load(Ordering::Relaxed), text: text.to_string() }
    }

    pub(super) fn is_given(&self, index: usize) -> bool {
        self.inner.slots[index].given.load(Ordering::Relaxed)
    }

    pub(super) fn is_by_flag(&self, index: usize) -> bool {
        self.inner.slots[index].by_flag.load(Ordering::Relaxed)
    }

    pub(super) fn count(&self) -> usize {
        self.inner.slots.len()
    }

    pub(super) fn store(&self, index: usize, value: Value) {
        let slot = &self.inner.slots[index];
        let mut text = slot.text.write();
        slot.number.store(value.number, Ordering::Relaxed);
        *text = value.text.into();
        slot.given.store(true, Ordering::Relaxed);
        slot.by_flag.store(false, Ordering::Relaxed);
        drop(text);
        self.inner.generation.fetch_add(1, Ordering::AcqRel);
    }

    /// What CONFIG GET shows: settings that derive from others show what is in force.
    fn shown(&self, index: usize) -> String {
        match index {
            index if index == Id::Peer as usize => self.peer(),
            index if index == Id::Admin as usize => self.admin(),
            index if index == Id::AdvertiseClient as usize => self.advertise_client(),
            index if index == Id::AdvertisePeer as usize => self.advertise_peer(),
            index if index == Id::AdvertiseAdmin as usize => self.advertise_admin(),
            index => self.text_at(index).to_string(),
        }
    }
}
