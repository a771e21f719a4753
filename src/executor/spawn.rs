//! The one place that starts processes (invariant I3): an argv array and its conditions in, a process and its output out.
//!
//! Refuses command lines, search paths and shells: the child executes the program itself with `execve`, because the
//! `execvp` of the C library hands a file that the kernel does not recognise to `/bin/sh`. Needs Linux 5.11.

#![expect(unsafe_code, reason = "what a child does between fork and exec has no safe form")]

use std::collections::BTreeMap;
use std::ffi::{CStr, CString, NulError, c_char, c_int, c_long, c_uint};
use std::io::{self, Read as _};
use std::os::fd::{AsRawFd as _, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use nix::sys::signal::SigSet;
use rustix::fs::{Mode, OFlags};
use rustix::process::{Pid, Resource, Rlimit, WaitOptions, WaitStatus};
use serde::{Deserialize, Serialize};

use super::rights::{Rights, Unenforceable};
use super::shortage;
use crate::domain::argv::Argv;
use crate::domain::job::Exit;
use crate::policy::restrictions::Restrictions;

/// What a child is given, and what it is denied.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Conditions {
    /// How much nicer than this process it is, 0 to 19.
    pub nice: i32,
    /// Whether it may gain privileges (`su`, `sudo`); else `no_new_privs` is set.
    pub may_gain_privileges: bool,
    /// Its working directory.
    pub directory: PathBuf,
    /// Its whole environment.
    pub env: BTreeMap<String, String>,
    /// Whose rights it has, how much it may take, where it may write.
    pub restrictions: Restrictions,
}

impl Conditions {
    /// As this process's own user, without a way to gain more, and no nicer than this process.
    #[must_use]
    pub fn new(directory: PathBuf, env: BTreeMap<String, String>) -> Self {
        let restrictions = Restrictions::default();
        Self { nice: 0, may_gain_privileges: false, directory, env, restrictions }
    }
}

/// Why nothing was started.
#[derive(Debug, thiserror::Error)]
pub enum NotStarted {
    /// A NUL byte would end a text early.
    #[error("a NUL byte stands in the environment or the directory; remove it from the route's `[run]`")]
    Nul(#[from] NulError),
    /// It could not be held to what its route says.
    #[error("it is not started: {0}")]
    Unenforceable(Unenforceable),
    /// What it would read from or write to.
    #[error("`{NOTHING}` cannot be opened: {0}")]
    Nothing(io::Error),
    /// There was no room for one process more.
    #[error("no process can be made: {0}")]
    NoProcess(io::Error),
    /// Its control group takes none, because of one that another command is in.
    #[error("no process can be made in its control group: one beside it was made threaded (`cgroup.type`)")]
    NoProcessInGroup,
    /// The kernel knows no way to execute the file.
    #[error("`{}` is neither a binary nor a script with a `#!` line; no shell is asked to guess", .0.display())]
    NotExecutable(PathBuf),
    /// The system refused.
    #[error(
        "`{}` did not start in `{}`: {error}; look whether program, interpreter and directory are there, and allowed to whom it runs as",
        program.display(), directory.display()
    )]
    System {
        /// What was to be started.
        program: PathBuf,
        /// Where.
        directory: PathBuf,
        /// What the system said.
        error: io::Error,
    },
}

impl NotStarted {
    fn new(error: io::Error, argv: &Argv, conditions: &Conditions) -> Self {
        if error.raw_os_error() == Some(libc::ENOEXEC) {
            return Self::NotExecutable(argv.program().to_owned());
        }
        let (program, directory) = (argv.program().to_owned(), conditions.directory.clone());
        Self::System { program, directory, error }
    }

    /// Whether it is for want of something that the system may have later, and the route's own `limits` are not why.
    pub(super) fn is_shortage(&self, conditions: &Conditions) -> bool {
        match self {
            Self::Nul(_) | Self::NotExecutable(_) => false,
            Self::NoProcessInGroup => true,
            Self::Unenforceable(error) => shortage::is_behind(error),
            Self::Nothing(error) | Self::NoProcess(error) => shortage::is(error),
            Self::System { error, .. } => {
                let limits = &conditions.restrictions.limits;
                let is_own = match error.raw_os_error() {
                    Some(libc::EAGAIN) => limits.processes.is_some(),
                    Some(libc::ENOMEM) => limits.memory.is_some(),
                    Some(_) | None => false,
                };
                shortage::is(error) && !is_own
            }
        }
    }
}

/// Where descriptors 0, 1 and 2 of a child lead; there are no others. Its parent has those three, too.
pub(super) struct Streams {
    /// Standard input.
    pub(super) input: OwnedFd,
    /// Standard output.
    pub(super) output: OwnedFd,
    /// Standard error.
    pub(super) error: OwnedFd,
}

/// Where nothing comes from, and what is written is gone.
const NOTHING: &str = "/dev/null";

/// Opens that.
///
/// # Errors
/// When the system refuses.
pub(super) fn nothing() -> Result<OwnedFd, NotStarted> {
    rustix::fs::open(NOTHING, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
        .map_err(|error| NotStarted::Nothing(error.into()))
}

/// Starts `argv` under `conditions` as a child that the caller reaps, born in the control group `group` where there is
/// one; blocks until its program is executed.
///
/// # Errors
/// When the program could not be executed as asked; then nothing runs.
pub(super) fn launch(
    argv: &Argv,
    conditions: &Conditions,
    streams: &Streams,
    group: Option<BorrowedFd<'_>>,
) -> Result<Pid, NotStarted> {
    let mut image = Image::new(argv, conditions)?;
    let (told, tell) = io::pipe().map_err(NotStarted::NoProcess)?;
    let no_process = |error: io::Error| match error.raw_os_error() {
        Some(libc::EOPNOTSUPP) if group.is_some() => NotStarted::NoProcessInGroup,
        Some(_) | None => NotStarted::NoProcess(error),
    };
    let pid = match fork(group).map_err(no_process)? {
        Forked::Child => {
            let error = image.execute(streams).raw_os_error().unwrap_or(libc::EINVAL);
            // A parent that is gone asks nothing any more.
            let _ = rustix::io::write(&tell, &error.to_ne_bytes());
            leave(FAILED)
        }
        Forked::Parent(pid) => pid,
    };
    drop(tell);
    let mut error = [0; size_of::<c_int>()];
    match (&told).read_exact(&mut error) {
        // Closed by `execve`.
        Err(_) => Ok(pid),
        Ok(()) => {
            reap(pid);
            Err(NotStarted::new(io::Error::from_raw_os_error(c_int::from_ne_bytes(error)), argv, conditions))
        }
    }
}

/// The exit code of a child that did not become its program; nobody sees it.
const FAILED: c_int = 127;

/// Who goes on after [`fork`].
pub(super) enum Forked {
    /// The process that forked, and the number of its child.
    Parent(Pid),
    /// The child.
    Child,
}

/// Makes a copy of this process, with the thread that asks alone; it starts its life in the control group `group`, or in
/// this process's own. Where this process has other threads, the child makes system calls and nothing else.
pub(super) fn fork(group: Option<BorrowedFd<'_>>) -> io::Result<Forked> {
    let pid = match group {
        // SAFETY: a child of the launcher or a supervisor, which have one thread, may do whatever those may; one of the
        // worker allocates nothing and takes no lock before `execve`, because nothing restricts the launcher.
        None => c_long::from(unsafe { libc::fork() }),
        Some(group) => {
            // SAFETY: numbers alone, of which zero means none.
            let mut arguments: libc::clone_args = unsafe { std::mem::zeroed() };
            arguments.flags = CLONE_INTO_CGROUP;
            arguments.exit_signal = u64::from(libc::SIGCHLD.unsigned_abs());
            arguments.cgroup = u64::from(group.as_raw_fd().unsigned_abs());
            // SAFETY: with neither a stack nor shared memory asked for, it is a fork; the C library is not told, but only
            // launcher and supervisors have groups: with one thread, there is no lock that somebody else could hold.
            unsafe { libc::syscall(libc::SYS_clone3, &raw const arguments, size_of_val(&arguments)) }
        }
    };
    match i32::try_from(pid) {
        Ok(0) => Ok(Forked::Child),
        Ok(pid) => Pid::from_raw(pid.max(0)).map(Forked::Parent).ok_or_else(io::Error::last_os_error),
        Err(error) => Err(io::Error::other(error)),
    }
}

/// See clone(2); libc has it in a type that is too small for it.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// Ends this process, and does nothing of what its parent has planned for its own end.
pub(super) fn leave(code: c_int) -> ! {
    // SAFETY: a plain system call.
    unsafe { libc::_exit(code) }
}

/// All that the child needs, laid out before the fork.
struct Image {
    program: CString,
    arguments: Texts,
    environment: Texts,
    directory: CString,
    nice: i32,
    nice_text: String,
    may_gain_privileges: bool,
    rights: Rights,
}

impl Image {
    fn new(argv: &Argv, conditions: &Conditions) -> Result<Self, NotStarted> {
        let rights = Rights::prepare(&conditions.restrictions).map_err(NotStarted::Unenforceable)?;
        let environment = conditions.env.iter().map(|(name, value)| format!("{name}={value}"));
        Ok(Self {
            program: CString::new(argv.program().as_os_str().as_bytes())?,
            arguments: Texts::new(argv.to_list())?,
            environment: Texts::new(environment)?,
            directory: CString::new(conditions.directory.as_os_str().as_bytes())?,
            nice: conditions.nice,
            nice_text: conditions.nice.to_string(),
            may_gain_privileges: conditions.may_gain_privileges,
            rights,
        })
    }

    /// In the child: restrains this process and becomes the program. Returns only when that failed.
    fn execute(&mut self, streams: &Streams) -> io::Error {
        match connect(streams).and_then(|()| self.restrain()) {
            Ok(()) => execve(&self.program, &self.arguments, &self.environment),
            Err(error) => error,
        }
    }

    /// The order matters: whatever is taken away stays away from all that follows.
    fn restrain(&mut self) -> io::Result<()> {
        default_signals()?;
        usual_descriptors()?;
        rustix::process::setsid()?;
        rustix::process::nice(self.nice)?;
        self.nice_the_session();
        self.rights.limit()?;
        self.rights.change_user()?;
        if !self.may_gain_privileges {
            rustix::thread::set_no_new_privs(true)?;
        }
        self.rights.confine()?;
        close_descriptors_on_exec()?;
        rustix::process::umask(Mode::RWXG | Mode::RWXO);
        Ok(rustix::process::chdir(self.directory.as_c_str())?)
    }

    /// Where the kernel schedules sessions as groups, a process's own niceness counts only inside its session. Best
    /// effort: not every kernel has such groups, and without privileges it takes only ten such changes a second.
    fn nice_the_session(&self) {
        if let Ok(file) = rustix::fs::open(AUTOGROUP, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty()) {
            let _ = rustix::io::write(&file, self.nice_text.as_bytes());
        }
    }
}

/// See sched(7), "The autogroup feature".
const AUTOGROUP: &CStr = c"/proc/self/autogroup";

/// Texts as `execve` takes them: pointers, and a null pointer at the end.
struct Texts {
    pointers: Vec<*const c_char>,
    _owners: Vec<CString>,
}

// SAFETY: the pointers lead into the strings of the same value, which nobody changes as long as it lives.
unsafe impl Send for Texts {}
// SAFETY: as above; shared access only reads.
unsafe impl Sync for Texts {}

impl Texts {
    fn new(texts: impl IntoIterator<Item = String>) -> Result<Self, NulError> {
        let owners = texts.into_iter().map(CString::new).collect::<Result<Vec<_>, _>>()?;
        let pointers = owners.iter().map(|text| text.as_ptr()).chain([std::ptr::null()]).collect();
        Ok(Self { pointers, _owners: owners })
    }
}

fn execve(program: &CStr, arguments: &Texts, environment: &Texts) -> io::Error {
    // SAFETY: the path ends with NUL, both arrays end with a null pointer, and all of it outlives the call.
    unsafe { libc::execve(program.as_ptr(), arguments.pointers.as_ptr(), environment.pointers.as_ptr()) };
    io::Error::last_os_error()
}

/// In the child. Those of the streams are above 2, because its parent has these three open.
fn connect(streams: &Streams) -> io::Result<()> {
    rustix::stdio::dup2_stdin(&streams.input)?;
    rustix::stdio::dup2_stdout(&streams.output)?;
    Ok(rustix::stdio::dup2_stderr(&streams.error)?)
}

/// Ignored and blocked signals would stay so across `execve`.
fn default_signals() -> io::Result<()> {
    for signal in 1..=LAST_SIGNAL {
        // SAFETY: `signal` is async-signal-safe; the numbers that cannot be set (KILL, STOP, libc's own) are refused.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
    Ok(SigSet::empty().thread_set_mask()?)
}

/// The last real-time signal, see signal(7).
const LAST_SIGNAL: c_int = 64;

/// The gateway takes as many descriptors as it may; a program that uses select(2) breaks with more than 1024.
fn usual_descriptors() -> io::Result<()> {
    let Rlimit { maximum, .. } = rustix::process::getrlimit(Resource::Nofile);
    let current = Some(maximum.map_or(USUAL_DESCRIPTORS, |maximum| maximum.min(USUAL_DESCRIPTORS)));
    Ok(rustix::process::setrlimit(Resource::Nofile, Rlimit { current, maximum })?)
}

/// Linux's own default of the soft limit, see getrlimit(2).
const USUAL_DESCRIPTORS: u64 = 1024;

/// Marked instead of closed: a failed start is reported through one of them.
fn close_descriptors_on_exec() -> io::Result<()> {
    const MARK: c_int = libc::CLOSE_RANGE_CLOEXEC as c_int;
    // SAFETY: a plain system call that touches no memory of ours.
    match unsafe { libc::close_range(3, c_uint::MAX, MARK) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Takes the exit of a child that has ended; before that, it blocks.
pub(super) fn reap(pid: Pid) -> Exit {
    let waited = rustix::io::retry_on_intr(|| rustix::process::waitpid(Some(pid), WaitOptions::empty()));
    // Only if something else reaped it; what is not known is no success.
    waited.ok().flatten().map_or(Exit::Signal(libc::SIGKILL), |(_, status)| exit_of(status))
}

/// How a process ended that was waited for.
pub(super) fn exit_of(status: WaitStatus) -> Exit {
    match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => Exit::Code(code),
        (None, Some(signal)) => Exit::Signal(signal),
        // It has not ended, which nobody here asks about; what is not known is no success.
        (None, None) => Exit::Signal(libc::SIGKILL),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::path::Path;

    use super::*;
    use crate::policy::restrictions::ResourceLimits;

    fn conditions() -> Conditions {
        let directory = PathBuf::from("/");
        Conditions { nice: 5, ..Conditions::new(directory, BTreeMap::new()) }
    }

    fn argv(program: &str, arguments: &[&str]) -> Argv {
        Argv::new(program, arguments.iter().map(|&argument| argument.to_owned()).collect()).unwrap()
    }

    fn start(argv: &Argv, conditions: &Conditions) -> Result<(Pid, io::PipeReader), NotStarted> {
        let (output, writer) = io::pipe().unwrap();
        let (input, writing) = (nothing().unwrap(), writer.try_clone().unwrap().into());
        let streams = Streams { input, output: writing, error: writer.into() };
        launch(argv, conditions, &streams, None).map(|pid| (pid, output))
    }

    fn run_with(conditions: &Conditions, program: &str, arguments: &[&str]) -> (Exit, String) {
        let (pid, mut output) = start(&argv(program, arguments), conditions).expect("it starts");
        let mut text = String::new();
        output.read_to_string(&mut text).unwrap();
        (reap(pid), text)
    }

    fn run(program: &str, arguments: &[&str]) -> String {
        let (exit, text) = run_with(&conditions(), program, arguments);
        assert_eq!(exit, Exit::Code(0), "{text}");
        text
    }

    /// The value of a line of `/proc/self/status`.
    fn field<'a>(status: &'a str, name: &str) -> &'a str {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.and_then(|rest| rest.strip_prefix(':')).expect("a field of status").trim()
    }

    /// An executable file. A child writes it, for no other test's child may hold it open for writing when it is run.
    fn file(directory: &Path, text: &str) -> String {
        let (source, target) = (directory.join("source"), directory.join("program"));
        std::fs::write(&source, text).unwrap();
        let (source, target) = (source.to_str().unwrap(), target.to_str().unwrap());
        run("/usr/bin/install", &["-m", "0755", source, target]);
        target.to_owned()
    }

    #[test]
    fn i3_arguments_arrive_byte_for_byte() {
        let hostile = "a b;$(id) `id` *\n'\"\\";
        assert_eq!(run("/usr/bin/printf", &["%s|", hostile, "", "-n"]), format!("{hostile}||-n|"));
    }

    #[test]
    fn i3_no_shell_is_asked_about_a_file_without_an_interpreter() {
        let directory = tempfile::tempdir().unwrap();
        let program = file(directory.path(), "echo a shell ran this\n");
        let refused = start(&argv(&program, &[]), &conditions());
        assert!(matches!(refused, Err(NotStarted::NotExecutable(_))), "{refused:?}");
        let program = file(directory.path(), "#!/bin/sh\necho \"$0 $1\"\n");
        assert_eq!(run(&program, &["x"]), format!("{program} x\n"));
    }

    #[test]
    fn the_environment_is_exactly_what_is_declared() {
        assert_eq!(run("/usr/bin/env", &[]), "");
        let env = BTreeMap::from([("LANG".into(), "C=x y".into()), ("PATH".into(), String::new())]);
        let (_, text) = run_with(&Conditions { env, ..conditions() }, "/usr/bin/env", &[]);
        assert_eq!(text, "LANG=C=x y\nPATH=\n");
    }

    #[test]
    fn only_three_descriptors_are_open() {
        let leak = std::fs::File::open("/etc/passwd").unwrap();
        let leak = rustix::io::dup(&leak).unwrap();
        assert!(!rustix::io::fcntl_getfd(&leak).unwrap().contains(rustix::io::FdFlags::CLOEXEC));
        // 3 is the directory that `ls` itself reads.
        assert_eq!(run("/usr/bin/ls", &["-1", "/proc/self/fd"]), "0\n1\n2\n3\n");
        assert_eq!(run("/usr/bin/readlink", &["/proc/self/fd/0"]), "/dev/null\n");
    }

    #[test]
    fn directory_and_umask_are_set() {
        let directory = tempfile::tempdir().unwrap();
        let real = directory.path().canonicalize().unwrap();
        let inside = Conditions { directory: real.clone(), ..conditions() };
        let (_, text) = run_with(&inside, "/usr/bin/pwd", &["-P"]);
        assert_eq!(text.trim_end(), real.to_str().unwrap());
        let status = run("/usr/bin/cat", &["/proc/self/status"]);
        assert_eq!(field(&status, "Umask"), "0077");
    }

    #[test]
    fn it_leads_a_session_and_a_group_and_is_nicer() {
        let ours = rustix::process::getpriority_process(None).unwrap();
        let stat = run("/usr/bin/cat", &["/proc/self/stat"]);
        // proc_pid_stat(5), counted from 1: pid, pgrp, session, tty_nr, nice; the command's name holds no blank here.
        let fields: Vec<&str> = stat.split_whitespace().collect();
        assert_eq!([fields[0], fields[0]], [fields[4], fields[5]], "{stat}");
        assert_eq!(fields[6], "0", "a terminal: {stat}");
        assert_eq!(fields[18], (ours + 5).min(19).to_string(), "{stat}");
    }

    #[test]
    fn a_session_that_is_scheduled_as_a_group_is_nicer() {
        if Path::new("/proc/self/autogroup").exists() && rustix::process::geteuid().is_root() {
            let group = run("/usr/bin/cat", &["/proc/self/autogroup"]);
            assert!(group.ends_with(" nice 5\n"), "{group}");
        }
    }

    #[test]
    fn privileges_cannot_be_gained_unless_the_route_says_so() {
        let status = run("/usr/bin/cat", &["/proc/self/status"]);
        assert_eq!(field(&status, "NoNewPrivs"), "1");
        let may = Conditions { may_gain_privileges: true, ..conditions() };
        let (_, status) = run_with(&may, "/usr/bin/cat", &["/proc/self/status"]);
        let ours = std::fs::read_to_string("/proc/self/status").unwrap();
        assert_eq!(field(&status, "NoNewPrivs"), field(&ours, "NoNewPrivs"));
    }

    #[test]
    fn no_signal_is_ignored_or_blocked() {
        let ours = std::fs::read_to_string("/proc/self/status").unwrap();
        assert_ne!(field(&ours, "SigIgn"), "0000000000000000", "Rust programs ignore SIGPIPE");
        let status = run("/usr/bin/cat", &["/proc/self/status"]);
        for name in ["SigBlk", "SigIgn", "SigCgt"] {
            let mask = u64::from_str_radix(field(&status, name), 16).unwrap();
            // 32 and 33 are the C library's own: it lets nobody set them.
            assert_eq!(mask & !(0b11 << 31), 0, "{name}: {mask:x}");
        }
    }

    #[test]
    fn what_cannot_start_is_an_error() {
        let absent = start(&argv("/no/such/program", &[]), &conditions());
        assert!(
            matches!(&absent, Err(NotStarted::System { error, .. }) if error.kind() == io::ErrorKind::NotFound)
        );
        let elsewhere = Conditions { directory: "/no/such/directory".into(), ..conditions() };
        assert!(start(&argv("/usr/bin/true", &[]), &elsewhere).is_err());
        let nul = Conditions { env: BTreeMap::from([("A".into(), "\0".into())]), ..conditions() };
        assert!(matches!(start(&argv("/usr/bin/true", &[]), &nul), Err(NotStarted::Nul(_))));
    }

    #[test]
    fn what_the_routes_own_limits_refuse_is_no_shortage_of_the_system() {
        let by_limit = |number, limits| {
            let mut held = conditions();
            held.restrictions.limits = limits;
            let error = NotStarted::new(io::Error::from_raw_os_error(number), &argv("/bin/true", &[]), &held);
            (
                error.is_shortage(&held),
                NotStarted::NoProcess(io::Error::from_raw_os_error(number)).is_shortage(&held),
            )
        };
        let none = ResourceLimits::default();
        let (processes, memory) =
            (ResourceLimits { processes: Some(1), ..none }, ResourceLimits { memory: Some(1), ..none });
        assert_eq!(by_limit(libc::EAGAIN, none), (true, true));
        assert_eq!(by_limit(libc::EAGAIN, processes), (false, true));
        assert_eq!(by_limit(libc::EAGAIN, memory), (true, true));
        assert_eq!(by_limit(libc::ENOMEM, memory), (false, true));
        assert_eq!(by_limit(libc::ENOMEM, processes), (true, true));
        assert_eq!(by_limit(libc::EACCES, none), (false, false));
    }

    #[test]
    fn exits_are_codes_or_signals() {
        assert_eq!(run_with(&conditions(), "/usr/bin/false", &[]).0, Exit::Code(1));
        let (pid, _output) = start(&argv("/usr/bin/sleep", &["60"]), &conditions()).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        assert_eq!(reap(pid), Exit::Signal(15));
    }
}
