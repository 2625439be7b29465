//! Where log lines go and which of them: `loglevel`, `logfile`, `log-format`. `loglevel` can change at run time.

use std::fs::OpenOptions;
use std::io::IsTerminal;
use std::sync::Mutex;

use tracing_subscriber::fmt::writer::BoxMakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, Registry, fmt, reload};

use crate::config::{Id, LogFormat, LogLevel, Settings};

/// Directives that win over `loglevel`, for a closer look: `QUORATE_LOG=openraft=debug`.
const VARIABLE: &str = "QUORATE_LOG";

/// Sets the log up for the process. Called once.
pub(super) fn init(settings: &Settings) -> anyhow::Result<()> {
    let (writer, colour) = match settings.logfile() {
        Some(path) => {
            let file = OpenOptions::new().create(true).append(true).open(&*path);
            let file = file.map_err(|error| anyhow::anyhow!("{path}: {error}"))?;
            (BoxMakeWriter::new(Mutex::new(file)), false)
        }
        None => (BoxMakeWriter::new(std::io::stderr), std::io::stderr().is_terminal()),
    };
    // A log that cannot be written (its reader has gone) is no reason to stop: complaining about it would panic.
    let lines: Box<dyn Layer<Registry> + Send + Sync> = match settings.log_format() {
        LogFormat::Human => {
            fmt::layer().with_writer(writer).with_ansi(colour).with_target(false).log_internal_errors(false).boxed()
        }
        LogFormat::Json => {
            fmt::layer().with_writer(writer).json().flatten_event(true).log_internal_errors(false).boxed()
        }
    };
    let (filter, handle) = reload::Layer::new(directives(settings.loglevel())?);
    tracing_subscriber::registry().with(lines.with_filter(filter)).try_init()?;
    settings.on_change(Id::Loglevel, move |settings| {
        let filter = directives(settings.loglevel()).map_err(|error| error.to_string())?;
        handle.reload(filter).map_err(|error| error.to_string())
    });
    Ok(())
}

/// The libraries below speak some steps quieter: an operator wants a line per event, and openraft has one per attempt.
fn directives(level: LogLevel) -> anyhow::Result<EnvFilter> {
    let base = match level {
        LogLevel::Debug => "trace,openraft=info,sled=info,hyper=info,mio=info",
        LogLevel::Verbose => "debug,openraft=warn,sled=warn,hyper=info,mio=info",
        LogLevel::Notice => "info,openraft=error,sled=warn",
        LogLevel::Warning => "warn,openraft=error,sled=warn",
        LogLevel::Nothing => "off",
    };
    match std::env::var(VARIABLE) {
        Ok(more) if !more.is_empty() => Ok(EnvFilter::try_new(format!("{base},{more}"))?),
        _ => Ok(EnvFilter::try_new(base)?),
    }
}
