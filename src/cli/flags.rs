//! Every setting as a flag: made from the table of settings, so that the two cannot differ.

use clap::{Arg, ArgAction, ArgMatches, Args, Command, Error, FromArgMatches};

use crate::config::{INERT, Kind, SENSITIVE, Spec, WORDS, specs};

/// Names and values that were given as flags, or as environment variables where the value is a secret.
#[derive(Clone, Debug, Default)]
pub(super) struct SettingFlags(pub(super) Vec<(String, String)>);

impl FromArgMatches for SettingFlags {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, Error> {
        let given = specs().filter_map(|spec| {
            let values = matches.get_many::<String>(spec.name)?;
            Some((spec.name.to_owned(), values.map(String::as_str).collect::<Vec<_>>().join(" ")))
        });
        Ok(SettingFlags(given.collect()))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

impl Args for SettingFlags {
    fn augment_args(command: Command) -> Command {
        specs().fold(command, |command, spec| command.arg(flag(spec)))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

fn flag(spec: &'static Spec) -> Arg {
    let mut arg = Arg::new(spec.name)
        .long(spec.name)
        .value_name(placeholder(spec))
        .action(ArgAction::Set)
        .allow_negative_numbers(true)
        .help_heading("Settings");
    if spec.has(WORDS) {
        arg = arg.num_args(0..);
    }
    if !spec.alias.is_empty() {
        arg = arg.alias(spec.alias);
    }
    if spec.has(SENSITIVE) && !spec.has(INERT) {
        // A flag can be seen by every user of the machine; the environment cannot.
        arg = arg.env(variable(spec.name)).hide_env_values(true);
    }
    if spec.has(INERT) {
        return arg.hide(true);
    }
    let default = if spec.default.is_empty() { String::new() } else { format!(" [default: {}]", spec.default) };
    arg.help(format!("{}{}{default}", spec.help, words(spec)))
}

fn words(spec: &Spec) -> String {
    match spec.kind {
        Kind::Enum(words) => format!(" [possible values: {}]", words.join(", ")),
        _ => String::new(),
    }
}

fn placeholder(spec: &Spec) -> &'static str {
    match spec.kind {
        Kind::Bool => "yes|no",
        Kind::Int(..) | Kind::Octal(_) => "N",
        Kind::Memory(..) | Kind::MemoryOrPercent(_) => "BYTES",
        Kind::Millis(..) => "MS",
        Kind::Enum(_) => "WORD",
        Kind::Text if spec.name == "dir" => "DIR",
        Kind::Text if spec.name == "logfile" => "FILE",
        Kind::Text | Kind::Shaped(_) => "VALUE",
    }
}

/// `QUORATE_ADMIN_TOKEN` for `admin-token`. The names are few; leaking them once is what clap wants.
fn variable(name: &str) -> &'static str {
    match name {
        "requirepass" => "QUORATE_REQUIREPASS",
        "admin-token" => "QUORATE_ADMIN_TOKEN",
        _ => "QUORATE_SECRET",
    }
}
