//! Processor time of a process.

use std::time::Duration;

/// Ticks of /proc in a second, on all of Linux's platforms that this runs on.
const USER_HZ: u64 = 100;

/// CPU time that a process has used until now.
pub fn of(pid: u32) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    // After the program's name in parentheses: utime and stime are fields 14 and 15 of all (proc(5)).
    let fields: Vec<&str> = stat.rsplit_once(") ").unwrap().1.split(' ').collect();
    let ticks: u64 = fields[11..13].iter().map(|ticks| ticks.parse::<u64>().unwrap()).sum();
    Duration::from_millis(ticks * 1000 / USER_HZ)
}
