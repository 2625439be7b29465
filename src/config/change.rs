//! CONFIG SET: all of the pairs, or none.

use thiserror::Error;

use super::settings::Settings;
use super::spec::{FIXED, PINNED, PROTECTED, REPLICATED, Value};

/// Why CONFIG SET refuses; the texts are Redis'.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum SetError {
    /// A name without a value.
    #[error("ERR syntax error")]
    Syntax,
    /// There is no such setting.
    #[error("ERR Unknown option or number of arguments for CONFIG SET - '{0}'")]
    Unknown(String),
    /// The value does not fit, or the setting cannot change.
    #[error("ERR CONFIG SET failed (possibly related to argument '{name}') - {problem}")]
    Failed {
        /// The setting.
        name: String,
        /// What is wrong.
        problem: String,
    },
}

/// A change that has been checked and not made yet.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Change {
    local: Vec<(usize, Value)>,
    replicated: Vec<(&'static str, String)>,
}

impl Change {
    /// Settings of the group, by name: they change when the log says so, on all members. Propose these first, and
    /// [`Settings::apply`] the rest when they are committed.
    pub fn replicated(&self) -> &[(&'static str, String)] {
        &self.replicated
    }
}

impl Settings {
    /// Checks a CONFIG SET. Changes nothing.
    pub fn plan(&self, pairs: &[(&[u8], &[u8])]) -> Result<Change, SetError> {
        let mut found: Vec<usize> = Vec::with_capacity(pairs.len());
        let mut refused = None;
        // As Redis: an unknown name is told before anything else is.
        for (name, _) in pairs {
            let index = std::str::from_utf8(name).ok().and_then(|name| self.index(name));
            let Some(index) = index else {
                return Err(SetError::Unknown(String::from_utf8_lossy(name).into_owned()));
            };
            if refused.is_none() {
                let problem = self.refusal(index).or(found.contains(&index).then_some("duplicate parameter"));
                refused = problem.map(|problem| SetError::Failed {
                    name: String::from_utf8_lossy(name).into_owned(),
                    problem: problem.to_owned(),
                });
            }
            found.push(index);
        }
        if let Some(error) = refused {
            return Err(error);
        }
        let mut change = Change::default();
        for (index, (_, wished)) in found.into_iter().zip(pairs) {
            let spec = self.spec_at(index);
            let failed = |problem: String| SetError::Failed { name: spec.name.to_owned(), problem };
            let wished = std::str::from_utf8(wished).map_err(|_| failed("argument must be text".to_owned()))?;
            if spec.has(PINNED) {
                // Redis can change some of these: its checks of the value come first.
                self.check_pinned(index, wished).map_err(failed)?;
                continue;
            }
            let value = spec.read(&self.text_at(index), wished).map_err(failed)?;
            if spec.has(REPLICATED) {
                change.replicated.push((spec.name, value.text));
            } else {
                change.local.push((index, value));
            }
        }
        Ok(change)
    }

    /// Why this setting cannot change at all.
    fn refusal(&self, index: usize) -> Option<&'static str> {
        let spec = self.spec_at(index);
        if spec.has(FIXED) {
            return Some("can't set immutable config");
        }
        if spec.has(PROTECTED) {
            return Some("can't set protected config");
        }
        None
    }

    /// What cannot change while the process runs may be set to what it is.
    fn check_pinned(&self, index: usize, wished: &str) -> Result<(), String> {
        let (spec, present) = (self.spec_at(index), self.text_at(index));
        if self.get(spec.name).is_some_and(|shown| shown == wished) {
            return Ok(());
        }
        let value = spec.kind.read(&present, wished)?;
        if *value.text == *present { Ok(()) } else { Err("can't set immutable config".to_owned()) }
    }

    /// Makes the member's own part of a change. When a hook refuses, everything is as it was.
    pub fn apply(&self, change: &Change) -> Result<(), SetError> {
        let _one_at_a_time = self.inner.changing.lock();
        let before: Vec<(usize, Value)> =
            change.local.iter().map(|(index, _)| (*index, self.value_at(*index))).collect();
        for (index, value) in &change.local {
            self.store(*index, value.clone());
        }
        for (index, _) in &change.local {
            if let Err(problem) = self.hooks_of(*index).iter().try_for_each(|hook| hook(self)) {
                for (index, value) in &before {
                    self.store(*index, value.clone());
                }
                // Those that took the new values must take the old ones again. They had them: nothing can be refused.
                for (index, _) in &before {
                    self.hooks_of(*index).iter().for_each(|hook| drop(hook(self)));
                }
                return Err(SetError::Failed { name: self.spec_at(*index).name.to_owned(), problem });
            }
        }
        Ok(())
    }

    /// The log says so: takes over the group's value of a setting. A name or a value that this version does not know
    /// is passed over, because a newer member may have written it; answers whether it was taken.
    pub fn set_replicated(&self, name: &str, value: &str) -> bool {
        let Some(index) = self.index(name).filter(|index| self.spec_at(*index).has(REPLICATED)) else {
            return false;
        };
        let Ok(value) = self.spec_at(index).read(&self.text_at(index), value) else {
            return false;
        };
        // The log is asked again and again: what is the same already is no change.
        if *value.text != *self.text_at(index) {
            self.store(index, value);
            self.hooks_of(index).iter().for_each(|hook| drop(hook(self)));
        }
        true
    }
}
