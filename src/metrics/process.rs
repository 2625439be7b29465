//! What the operating system says about this process: resident memory and CPU time. Zero where it cannot be told.

use std::fs;

/// Linux counts CPU time in hundredths of a second for user space, whatever its own tick is.
const TICKS_PER_SECOND: f64 = 100.0;

/// CPU seconds.
#[derive(Clone, Copy, Debug, Default)]
pub struct CpuTimes {
    /// In user code.
    pub user: f64,
    /// In the kernel.
    pub system: f64,
    /// In user code of children that ended.
    pub user_children: f64,
    /// In the kernel, for children that ended.
    pub system_children: f64,
}

/// Resident memory in bytes.
pub fn resident_bytes() -> u64 {
    kib_line("/proc/self/status", "VmRSS:")
}

/// The machine's memory in bytes.
pub fn machine_bytes() -> u64 {
    kib_line("/proc/meminfo", "MemTotal:")
}

fn kib_line(path: &str, key: &str) -> u64 {
    let text = fs::read_to_string(path).unwrap_or_default();
    let kib = text.lines().find_map(|l| l.strip_prefix(key)?.split_whitespace().next()?.parse::<u64>().ok());
    kib.unwrap_or(0) * 1024
}

/// CPU time of the process.
pub fn cpu_times() -> CpuTimes {
    fs::read_to_string("/proc/self/stat").ok().and_then(|text| parse_stat(&text)).unwrap_or_default()
}

fn parse_stat(text: &str) -> Option<CpuTimes> {
    // The name of the process stands in parentheses and may hold blanks and parentheses itself.
    let rest = &text[text.rfind(')')? + 1..];
    let mut fields = rest.split_whitespace().skip(11).map(|f| f.parse::<f64>().map(|t| t / TICKS_PER_SECOND));
    let mut next = || fields.next()?.ok();
    Some(CpuTimes { user: next()?, system: next()?, user_children: next()?, system_children: next()? })
}

/// How many bytes a person would say: 1.50M.
pub fn human_bytes(bytes: u64) -> String {
    const STEPS: [(u64, &str); 4] = [(1 << 40, "T"), (1 << 30, "G"), (1 << 20, "M"), (1 << 10, "K")];
    STEPS
        .iter()
        .find(|(size, _)| bytes >= *size)
        .map_or_else(|| format!("{bytes}B"), |(size, letter)| format!("{:.2}{letter}", bytes as f64 / *size as f64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_has_memory_and_a_name_cannot_confuse_its_times() {
        assert!(resident_bytes() > 100_000);
        assert!(machine_bytes() > resident_bytes());
        let times = parse_stat("7 (a) b (c)) S 1 2 3 4 5 6 7 8 9 10 150 50 25 75 20 0 1").unwrap();
        assert_eq!([times.user, times.system, times.user_children, times.system_children], [1.5, 0.5, 0.25, 0.75]);
    }

    #[test]
    fn bytes_for_people() {
        assert_eq!(human_bytes(512), "512B");
        assert_eq!(human_bytes(1_572_864), "1.50M");
    }
}
