//! The text form that Prometheus reads. Every family is written with its help and type exactly once.

use std::fmt::Write;

use super::histogram::Histogram;

/// What a histogram's values are, so that the page shows base units.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Recorded in nanoseconds, shown in seconds.
    Nanoseconds,
    /// Recorded in microseconds, shown in seconds.
    Microseconds,
    /// A count, shown as it is.
    Plain,
}

impl Unit {
    fn scale(self) -> f64 {
        match self {
            Self::Nanoseconds => 1e-9,
            Self::Microseconds => 1e-6,
            Self::Plain => 1.0,
        }
    }

    /// First and last power of two that get a bucket on the page.
    fn powers(self) -> (u32, u32) {
        match self {
            Self::Nanoseconds => (10, 34),
            Self::Microseconds => (0, 24),
            Self::Plain => (0, 24),
        }
    }
}

/// A metrics page being written.
#[derive(Debug, Default)]
pub struct Page {
    out: String,
}

impl Page {
    /// An empty page.
    pub fn new() -> Self {
        Self::default()
    }

    /// The finished text.
    pub fn finish(self) -> String {
        self.out
    }

    fn head(&mut self, name: &str, help: &str, kind: &str) {
        let _ = writeln!(self.out, "# HELP {name} {}\n# TYPE {name} {kind}", help.replace('\n', " "));
    }

    /// A counter without labels. Its name ends in `_total`.
    pub fn counter(&mut self, name: &str, help: &str, value: u64) {
        self.head(name, help, "counter");
        let _ = writeln!(self.out, "{name} {value}");
    }

    /// A counter with a value for each set of labels.
    pub fn counters(
        &mut self,
        name: &str,
        help: &str,
        rows: impl IntoIterator<Item = (Vec<(&'static str, String)>, f64)>,
    ) {
        self.rows(name, help, "counter", rows);
    }

    /// A gauge without labels.
    pub fn gauge(&mut self, name: &str, help: &str, value: f64) {
        self.head(name, help, "gauge");
        let _ = writeln!(self.out, "{name} {value}");
    }

    /// A gauge with a value for each set of labels.
    pub fn gauges(
        &mut self,
        name: &str,
        help: &str,
        rows: impl IntoIterator<Item = (Vec<(&'static str, String)>, f64)>,
    ) {
        self.rows(name, help, "gauge", rows);
    }

    fn rows(
        &mut self,
        name: &str,
        help: &str,
        kind: &str,
        rows: impl IntoIterator<Item = (Vec<(&'static str, String)>, f64)>,
    ) {
        self.head(name, help, kind);
        for (labels, value) in rows {
            let _ = writeln!(self.out, "{name}{} {value}", braces(&labels, None));
        }
    }

    /// A histogram without labels.
    pub fn histogram(&mut self, name: &str, help: &str, unit: Unit, histogram: &Histogram) {
        self.histograms(name, help, unit, [(Vec::new(), histogram)]);
    }

    /// A histogram for each set of labels.
    pub fn histograms<'h>(
        &mut self,
        name: &str,
        help: &str,
        unit: Unit,
        rows: impl IntoIterator<Item = (Vec<(&'static str, String)>, &'h Histogram)>,
    ) {
        self.head(name, help, "histogram");
        let (first, last) = unit.powers();
        for (labels, histogram) in rows {
            for power in first..=last {
                let le = format!("{}", (1u64 << power) as f64 * unit.scale());
                let _ =
                    writeln!(self.out, "{name}_bucket{} {}", braces(&labels, Some(&le)), histogram.below_power(power));
            }
            // Recorders may run while this is read: +Inf and count are taken as one, so that the page never
            // contradicts itself.
            let all = histogram.below_power(63);
            let _ = writeln!(self.out, "{name}_bucket{} {all}", braces(&labels, Some("+Inf")));
            let _ = writeln!(self.out, "{name}_sum{} {}", braces(&labels, None), histogram.sum() as f64 * unit.scale());
            let _ = writeln!(self.out, "{name}_count{} {all}", braces(&labels, None));
        }
    }

    /// A histogram whose cumulative buckets were counted elsewhere: `(upper bound, count up to it)`, then sum and count.
    pub fn buckets(&mut self, name: &str, help: &str, buckets: &[(f64, u64)], sum: f64, count: u64) {
        self.head(name, help, "histogram");
        for (le, below) in buckets {
            let _ = writeln!(self.out, "{name}_bucket{{le=\"{le}\"}} {below}");
        }
        let _ = writeln!(self.out, "{name}_bucket{{le=\"+Inf\"}} {count}\n{name}_sum {sum}\n{name}_count {count}");
    }
}

fn braces(labels: &[(&'static str, String)], le: Option<&str>) -> String {
    let mut parts: Vec<String> = labels.iter().map(|(k, v)| format!("{k}=\"{}\"", escape(v))).collect();
    if let Some(le) = le {
        parts.push(format!("le=\"{le}\""));
    }
    if parts.is_empty() { String::new() } else { format!("{{{}}}", parts.join(",")) }
}

fn escape(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_histogram_is_cumulative_and_ends_at_its_count() {
        let histogram = Histogram::new();
        for ns in [500, 5_000, 5_000_000_000] {
            histogram.record(ns);
        }
        let mut page = Page::new();
        page.histogram("x_seconds", "Some time.", Unit::Nanoseconds, &histogram);
        let text = page.finish();
        assert!(text.starts_with("# HELP x_seconds Some time.\n# TYPE x_seconds histogram\n"), "{text}");
        assert!(text.contains("x_seconds_bucket{le=\"0.000001024\"} 1\n"), "{text}");
        assert!(text.contains("x_seconds_bucket{le=\"+Inf\"} 3\n"));
        assert!(text.contains("x_seconds_sum 5.0000055\n"));
        let counts: Vec<u64> = text
            .lines()
            .filter(|l| l.contains("_bucket"))
            .map(|l| l.rsplit(' ').next().unwrap().parse().unwrap())
            .collect();
        assert!(counts.is_sorted());
    }

    #[test]
    fn label_values_are_escaped() {
        let mut page = Page::new();
        page.gauges("g", "h", [(vec![("a", "x\"y\\z\n".to_owned())], 1.5)]);
        assert!(page.finish().ends_with("g{a=\"x\\\"y\\\\z\\n\"} 1.5\n"));
    }
}
