//! The process that one command after another descends from: it starts a command, adopts whatever loses its parent, and
//! knows when nothing of the tree is left.
//!
//! Takes orders from its worker alone, and holds no secret. When the conversation ends, for whatever reason, so does
//! every descendant, and then this process. Has one thread, which only waits, starts, signals and reaps.

use std::collections::HashSet;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use rustix::process::{Pid, getpid, set_child_subreaper};
use serde::{Deserialize, Serialize};

use super::cgroup::{Group, Series};
use super::descendants::Children;
use super::frame;
use super::news::{News, Reaped, reap};
use super::shortage::NotStarted;
use super::spawn::{self, Conditions, Streams};
use crate::domain::argv::Argv;
use crate::domain::job::Exit;

/// From one attempt to end a tree to the next, when nothing has ended meanwhile.
pub(super) const AGAIN_AFTER: Duration = Duration::from_millis(100);

/// What a worker asks for.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(super) enum Order {
    /// Start a command; the first descriptor beside it is its standard output and standard error.
    Start {
        /// Program and arguments.
        argv: Vec<String>,
        /// What it is given, and what it is denied.
        conditions: Box<Conditions>,
        /// Whether a second descriptor is its standard input; else that is empty.
        has_input: bool,
    },
    /// TERM to the whole tree.
    Terminate,
    /// KILL to the whole tree, until nothing of it is left.
    Kill,
}

/// What a worker is told.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(super) enum Event {
    /// The order to start is here; said before anything is done about it. Without, nothing has run.
    Taken,
    /// Nothing runs.
    NotStarted {
        /// Why.
        reason: String,
        /// Whether it may, later.
        is_shortage: bool,
    },
    /// The command itself has ended; what it started may go on.
    Ended {
        /// How.
        exit: Exit,
    },
    /// Nothing is left of the tree. The next command may be started.
    Gone,
}

/// What there is of a tree.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Tree {
    Nothing,
    /// The command runs.
    Whole(Pid),
    /// The command has ended, and has left something.
    Rest,
}

struct Supervisor<'a> {
    orders: &'a UnixStream,
    news: &'a News,
    children: Children,
    tree: Tree,
    /// Whether TERM is still to be sent, for which something was short.
    is_terminating: bool,
    /// Where control groups are to be had.
    groups: Option<Series<'a>>,
    /// The one that the tree is in.
    group: Option<Group<'a>>,
    /// Frames that are sent together, because one wakes the worker as well as two.
    events: Vec<u8>,
}

/// Follows orders until there are no more, and ends everything then.
///
/// # Errors
/// When the system refuses what this cannot do without. Nothing is left running then, either, unless that is the reason.
pub(super) fn supervise(orders: &UnixStream, news: &News, groups: Option<Series<'_>>) -> io::Result<()> {
    set_child_subreaper(Some(getpid()))?;
    let (children, events) = (Children::of_this_process()?, Vec::new());
    let (tree, is_terminating, group) = (Tree::Nothing, false, None);
    let mut supervisor = Supervisor { orders, news, children, tree, is_terminating, groups, group, events };
    let followed = supervisor.follow();
    supervisor.end()?;
    followed
}

impl Supervisor<'_> {
    fn follow(&mut self) -> io::Result<()> {
        loop {
            let limit = self.is_terminating.then_some(AGAIN_AFTER);
            let is_ordered = self.news.wait(Some(self.orders.as_fd()), limit)?;
            if self.tree != Tree::Nothing {
                self.reap_all()?;
            }
            if self.is_terminating {
                self.terminate();
            }
            if is_ordered {
                let Some((order, descriptors)) = frame::receive(self.orders)? else {
                    return Ok(());
                };
                self.obey(order, descriptors)?;
            }
            self.tell()?;
        }
    }

    fn obey(&mut self, order: Order, descriptors: Vec<OwnedFd>) -> io::Result<()> {
        match (order, self.tree) {
            (Order::Start { argv, conditions, has_input }, Tree::Nothing) => {
                self.note(&Event::Taken)?;
                self.tell()?;
                match self.start(argv, &conditions, has_input, descriptors) {
                    Ok(leader) => self.tree = Tree::Whole(leader),
                    Err(NotStarted { reason, is_shortage }) => {
                        self.leave_group();
                        self.note(&Event::NotStarted { reason, is_shortage })?;
                    }
                }
            }
            (Order::Start { .. }, Tree::Whole(_) | Tree::Rest) => {
                return Err(io::Error::other("a second command was ordered"));
            }
            // The last process ended while the order was under way.
            (Order::Terminate | Order::Kill, Tree::Nothing) => {}
            (Order::Terminate, Tree::Whole(_) | Tree::Rest) => self.terminate(),
            (Order::Kill, Tree::Whole(_) | Tree::Rest) => self.end()?,
        }
        Ok(())
    }

    /// Starts a command, in a group of its own where there are groups: never beside one, for its start is on record so.
    fn start(
        &mut self,
        argv: Vec<String>,
        conditions: &Conditions,
        has_input: bool,
        descriptors: Vec<OwnedFd>,
    ) -> Result<Pid, NotStarted> {
        let (argv, streams) = prepare(argv, conditions, has_input, descriptors)?;
        let made = self.groups.as_mut().map(Series::make).transpose();
        self.group = made.map_err(|error| NotStarted::by("a control group cannot be made for it", &error))?;
        let launched = spawn::launch(&argv, conditions, &streams, self.group.as_ref().map(AsFd::as_fd));
        launched.map_err(|error| told(&error, conditions))
    }

    /// Ends whatever is left in the tree's group, which is nothing that descends from this process.
    fn leave_group(&mut self) {
        if let Some(group) = self.group.take() {
            group.end(AGAIN_AFTER);
        }
    }

    /// TERM to all of the tree, now or as soon as all of it can be found.
    fn terminate(&mut self) {
        self.is_terminating = self.tree != Tree::Nothing && self.children.terminate().is_err();
    }

    /// Kills until nobody is left: all in the group, and what has moved out of it as far as this process may. What
    /// cannot be killed, because it has gained more rights than that or hangs in the kernel, is waited for; an attempt
    /// that fails, for want of something or because of what the group was turned into, is made again.
    fn end(&mut self) -> io::Result<()> {
        self.is_terminating = false;
        while !self.reap_all()? {
            let _ = self.group.as_ref().map(Group::kill);
            let _ = self.children.kill(&HashSet::new());
            self.news.wait(None, Some(AGAIN_AFTER))?;
        }
        Ok(())
    }

    /// Takes the exits of all that have ended; true when nobody is left.
    fn reap_all(&mut self) -> io::Result<bool> {
        loop {
            match (reap()?, self.tree) {
                (Reaped::Ended(pid, exit), Tree::Whole(leader)) if pid == leader => {
                    self.tree = Tree::Rest;
                    self.note(&Event::Ended { exit })?;
                }
                (Reaped::Ended(..), Tree::Whole(_) | Tree::Rest | Tree::Nothing) => {}
                (Reaped::NoneYet, Tree::Whole(_) | Tree::Rest | Tree::Nothing) => return Ok(false),
                (Reaped::Nobody, Tree::Nothing) => return Ok(true),
                (Reaped::Nobody, Tree::Whole(_) | Tree::Rest) => {
                    self.leave_group();
                    self.tree = Tree::Nothing;
                    self.note(&Event::Gone)?;
                }
            }
        }
    }

    fn note(&mut self, event: &Event) -> io::Result<()> {
        self.events.extend(frame::encode(event)?);
        Ok(())
    }

    fn tell(&mut self) -> io::Result<()> {
        use std::io::Write as _;
        let told = self.orders.write_all(&self.events);
        self.events.clear();
        told
    }
}

fn prepare(
    argv: Vec<String>,
    conditions: &Conditions,
    has_input: bool,
    descriptors: Vec<OwnedFd>,
) -> Result<(Argv, Streams), NotStarted> {
    let mut argv = argv.into_iter();
    let program = argv.next().unwrap_or_default();
    let argv = Argv::new(&program, argv.collect()).map_err(|error| NotStarted::because(error.to_string()))?;
    let mut descriptors = descriptors.into_iter();
    let (output, input) = match (descriptors.next(), descriptors.next(), has_input) {
        (Some(output), None, false) => (output, spawn::nothing().map_err(|error| told(&error, conditions))?),
        (Some(output), Some(input), true) => (output, input),
        // The kernel lets fall what this process has no descriptor for.
        (None | Some(_), None | Some(_), true | false) => {
            let reason = "not the descriptors that belong beside an order to start".into();
            return Err(NotStarted { reason, is_shortage: true });
        }
    };
    let error = output.try_clone()?;
    Ok((argv, Streams { input, output, error }))
}

fn told(error: &spawn::NotStarted, conditions: &Conditions) -> NotStarted {
    NotStarted { reason: error.to_string(), is_shortage: error.is_shortage(conditions) }
}
