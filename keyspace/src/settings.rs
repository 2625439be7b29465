//! Settings that change replies, so they are state of the group: a `CONFIG SET` of one is an entry of the log. Which values
//! they may have is checked before that.

/// One setting: its name in redis.conf, another name it also answers to, and its default.
struct Spec {
    name: &'static str,
    alias: &'static str,
    default: i64,
}

const fn spec(name: &'static str, alias: &'static str, default: i64) -> Spec {
    Spec { name, alias, default }
}

/// In the order of [`Setting`].
static SPECS: [Spec; 13] = [
    spec("hash-max-listpack-entries", "hash-max-ziplist-entries", 512),
    spec("hash-max-listpack-value", "hash-max-ziplist-value", 64),
    spec("list-max-listpack-size", "list-max-ziplist-size", -2),
    spec("list-compress-depth", "", 0),
    spec("set-max-intset-entries", "", 512),
    spec("set-max-listpack-entries", "", 128),
    spec("set-max-listpack-value", "", 64),
    spec("zset-max-listpack-entries", "zset-max-ziplist-entries", 128),
    spec("zset-max-listpack-value", "zset-max-ziplist-value", 64),
    spec("hll-sparse-max-bytes", "", 3000),
    spec("stream-node-max-bytes", "", 4096),
    spec("stream-node-max-entries", "", 100),
    spec("proto-max-bulk-len", "", 512 * 1024 * 1024),
];

/// The settings by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "they are redis.conf's names")]
pub enum Setting {
    HashMaxListpackEntries,
    HashMaxListpackValue,
    ListMaxListpackSize,
    ListCompressDepth,
    SetMaxIntsetEntries,
    SetMaxListpackEntries,
    SetMaxListpackValue,
    ZsetMaxListpackEntries,
    ZsetMaxListpackValue,
    HllSparseMaxBytes,
    StreamNodeMaxBytes,
    StreamNodeMaxEntries,
    ProtoMaxBulkLen,
}

/// The values of all settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    values: [i64; SPECS.len()],
}

impl Default for Settings {
    fn default() -> Self {
        let mut values = [0; SPECS.len()];
        for (value, spec) in values.iter_mut().zip(&SPECS) {
            *value = spec.default;
        }
        Self { values }
    }
}

impl Settings {
    fn find(name: &str) -> Option<usize> {
        let hit = |known: &str| !known.is_empty() && known.eq_ignore_ascii_case(name);
        SPECS.iter().position(|spec| hit(spec.name) || hit(spec.alias))
    }

    /// A value.
    pub fn get(&self, setting: Setting) -> i64 {
        self.values[setting as usize]
    }

    /// A limit that can't be negative.
    pub fn limit(&self, setting: Setting) -> usize {
        usize::try_from(self.get(setting)).unwrap_or(0)
    }

    /// A value by its name in redis.conf (or its old name).
    pub fn by_name(&self, name: &str) -> Option<i64> {
        Self::find(name).map(|at| self.values[at])
    }

    /// All names with their values, then the old names that are still answered.
    pub fn all(&self) -> impl Iterator<Item = (&'static str, i64)> + '_ {
        let named = SPECS.iter().zip(&self.values);
        named
            .clone()
            .map(|(spec, value)| (spec.name, *value))
            .chain(named.filter(|(spec, _)| !spec.alias.is_empty()).map(|(spec, value)| (spec.alias, *value)))
    }

    /// Sets one; an unknown name is let pass, for a newer leader may know more than this member.
    pub(crate) fn set(&mut self, name: &str, value: i64) {
        if let Some(at) = Self::find(name) {
            self.values[at] = value;
        }
    }

    /// Names and values that differ from the defaults, for the header of a view.
    pub(crate) fn changed(&self) -> impl Iterator<Item = (&'static str, i64)> + '_ {
        SPECS
            .iter()
            .zip(&self.values)
            .filter(|(spec, value)| spec.default != **value)
            .map(|(spec, value)| (spec.name, *value))
    }
}
