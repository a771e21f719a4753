//! A command that was ordered and all that descends from it, as far as its supervisor tells.
//!
//! Decides nothing: when a tree is to end is the step's to say.

use std::io;

use tokio::net::unix::pipe::Receiver;
use tokio::sync::oneshot;

use super::super::frame::Link;
use super::super::supervisor::{Event, Order};
use super::{Fate, Launcher, MOST_IDLE, NotStarted, Supervisor};
use crate::domain::job::Exit;

/// A command that was ordered, and what it writes.
#[must_use = "a tree that is dropped is killed"]
pub(in super::super) struct Started {
    /// The command and all that descends from it.
    pub(in super::super) tree: Tree,
    /// Standard output and standard error, in the order they were written.
    pub(in super::super) output: Receiver,
}

/// A command and all that descends from it. Dropping it kills all of that.
pub(in super::super) struct Tree {
    launcher: Launcher,
    /// The supervisor's; `None` once it has ended although nobody told it to.
    link: Option<Link>,
    fate: oneshot::Receiver<Fate>,
    exit: Option<Result<Exit, NotStarted>>,
    /// Whether the supervisor said that it has the order.
    is_taken: bool,
    is_gone: bool,
    /// Whether something of it may still run, and nobody is left who could say.
    is_left: bool,
}

impl Tree {
    /// Of a command that was ordered from `supervisor`.
    pub(super) fn of(supervisor: Supervisor, launcher: Launcher) -> Self {
        let Supervisor { link, fate } = supervisor;
        let (exit, is_taken, is_gone, is_left) = (None, false, false, false);
        Self { launcher, link: Some(link), fate, exit, is_taken, is_gone, is_left }
    }

    /// Waits until the command itself has ended, or was not even started. May be dropped and called again.
    pub(in super::super) async fn ended(&mut self) {
        while self.exit.is_none() && !self.is_gone {
            self.listen().await;
        }
    }

    /// Waits until nothing of the tree is left, or nobody can tell any more. May be dropped and called again.
    pub(in super::super) async fn gone(&mut self) {
        while !self.is_gone {
            self.listen().await;
        }
    }

    /// TERM to all of it.
    pub(in super::super) async fn terminate(&mut self) {
        self.order(&Order::Terminate).await;
    }

    /// KILL to all of it, until nothing is left.
    pub(in super::super) async fn kill(&mut self) {
        self.order(&Order::Kill).await;
    }

    /// Whether something of it may still run, of a tree that [`Tree::gone`] has waited for.
    pub(in super::super) fn is_left(&self) -> bool {
        self.is_left
    }

    /// How the command ended, of a tree that is gone.
    ///
    /// # Errors
    /// When it was not started.
    pub(in super::super) fn finish(self) -> Result<Exit, NotStarted> {
        if let (Some(link), true) = (self.link, self.is_gone) {
            let mut idle = self.launcher.idle();
            if idle.len() < MOST_IDLE {
                idle.push(Supervisor { link, fate: self.fate });
            }
        }
        // What is not known is no success: it was killed with its supervisor.
        self.exit.unwrap_or(Ok(Exit::Signal(libc::SIGKILL)))
    }

    async fn order(&mut self, order: &Order) {
        // Most commands leave nothing, which came with the news of their end.
        while let Some(told) = self.link.as_mut().and_then(|link| link.received().transpose()) {
            self.hear(told.map(Some));
        }
        if let (Some(link), false) = (&mut self.link, self.is_gone)
            && link.send(order, &[]).await.is_err()
        {
            self.link = None;
        }
    }

    async fn listen(&mut self) {
        if let Some(link) = &mut self.link {
            let told = link.next().await;
            self.hear(told);
            return;
        }
        match (&mut self.fate).await {
            Ok(Fate::Refused(why)) => self.exit = Some(Err(why)),
            Ok(Fate::Gone) if !self.is_taken => self.exit = Some(Err(NotStarted::without_supervisor())),
            Ok(Fate::Gone) => {}
            // Without a launcher nobody can tell, and the worker stops.
            Err(_) => self.is_left = true,
        }
        self.is_gone = true;
    }

    fn hear(&mut self, told: io::Result<Option<Event>>) {
        match told {
            Ok(Some(Event::Taken)) => self.is_taken = true,
            Ok(Some(Event::NotStarted { reason, is_shortage })) => {
                self.exit = Some(Err(NotStarted { reason, is_shortage }));
                self.is_gone = true;
            }
            Ok(Some(Event::Ended { exit })) => self.exit = Some(Ok(exit)),
            Ok(Some(Event::Gone)) => self.is_gone = true,
            Ok(None) | Err(_) => {
                let may_run = self.is_taken;
                tracing::error!(may_run, "the supervisor of a command has ended; whatever runs is killed");
                self.link = None;
            }
        }
    }
}
