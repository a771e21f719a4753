//! Taking in submissions while the decisions to do so are on their way to the disk: the commit waits for them, and not each
//! submission for its own.
//!
//! Nothing is kept of a submission whose decision is not on record (invariant I10), nor of those in the same transaction;
//! whatever else the transaction does is kept. What a record is, and where it stands, is not known here.

use tokio::runtime::Runtime;

use super::Unavailable;
use super::ledger::Ledger;
use super::writer::{Answer, Command};

impl Ledger<'_> {
    /// Takes in all that are given, if all decisions get on record; their answers tell each what became of it. What is not
    /// reached, because the transaction was lost, stays in the list.
    pub(super) fn take_in(
        &mut self,
        given: &mut Vec<Command>,
        runtime: &Runtime,
        answers: &mut Vec<(Answer, Result<(), Unavailable>)>,
    ) -> Result<(), Unavailable> {
        if given.is_empty() {
            return Ok(());
        }
        let before = self.tally.clone();
        self.run("SAVEPOINT taken_in")?;
        let (mut done, mut decisions) = (Vec::with_capacity(given.len()), Vec::with_capacity(given.len()));
        let mut submissions = std::mem::take(given).into_iter();
        while !self.is_lost()
            && let Some(Command { after, work, .. }) = submissions.next()
        {
            done.push(work(Ok(self)));
            decisions.push(after);
        }
        given.extend(submissions);
        // Also where all is lost: whoever gave them then knows whether there is a record to take back.
        let mut verdicts = runtime.block_on(async {
            let mut verdicts = Vec::with_capacity(decisions.len());
            for decision in decisions {
                verdicts.push(match decision {
                    Some(decision) => decision.await.map_err(Unavailable),
                    None => Ok(()),
                });
            }
            verdicts
        });
        if self.is_lost() {
            answers.extend(done.into_iter().zip(verdicts));
            return Ok(());
        }
        let mut ended = Ok(());
        if let Some(reason) = verdicts.iter().find_map(|verdict| verdict.as_ref().err()).cloned() {
            verdicts.fill(Err(reason));
            self.tally = before;
            ended = self.run("ROLLBACK TO taken_in");
        }
        self.lost |= ended.and_then(|()| self.run("RELEASE taken_in")).is_err();
        answers.extend(done.into_iter().zip(verdicts));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;

    use super::super::fixture::{Hold, Place, terms};
    use super::super::sqlite::Store;
    use super::super::{How, OnRecord, SubmitError};
    use super::*;

    /// A decision that gets on record when it is told to.
    fn decision() -> (oneshot::Sender<Result<(), String>>, OnRecord) {
        let (tell, told) = oneshot::channel();
        (tell, Box::pin(async { told.await.unwrap_or_else(|_| Err("the log is closed".into())) }))
    }

    async fn count(store: &Store) -> i64 {
        let count = "SELECT (SELECT COUNT(*) FROM jobs) + (SELECT COUNT(*) FROM messages) + (SELECT COUNT(*) FROM locks)";
        let count = |ledger: &mut Ledger<'_>| Ok(ledger.connection.query_row(count, [], |row| row.get(0))?);
        store.write::<i64, Unavailable>(count).await.unwrap()
    }

    #[tokio::test]
    async fn i10_no_job_is_stored_before_the_decision_is_on_record() {
        let place = Place::new();
        let (store, _) = place.open();
        let (tell, decision) = decision();
        let (begin, begun) = oneshot::channel();
        let decision = Box::pin(async move {
            begin.send(()).unwrap();
            decision.await
        });
        let (submitter, submission) = (store.clone(), place.signed("kick", "n1"));
        let submitted =
            tokio::spawn(async move { submitter.submit_after(submission, terms("kick", 1), decision).await });
        // Its transaction has run, and waits.
        begun.await.unwrap();
        let crashed = place.crashed();
        assert_eq!(count(&crashed.open().0).await, 0);
        assert!(!submitted.is_finished());
        tell.send(Ok(())).unwrap();
        let job = submitted.await.unwrap().unwrap().job;
        let crashed = place.crashed();
        assert!(crashed.open().0.find(job).await.unwrap().is_some());
    }

    #[tokio::test]
    async fn i10_what_does_not_get_on_record_leaves_nothing_behind_and_takes_nothing_else_with_it() {
        let mut place = Place::new();
        place.settings.jobs = 2;
        let (store, _) = place.open();
        let earlier = store.submit(&place.signed("kick", "n0"), &terms("kick", 1)).await.unwrap().job;
        let before = count(&store).await;
        // All that follows falls into one transaction.
        let hold = Hold::on(&store).await;
        let (tell, unrecorded) = decision();
        tell.send(Err("the disk is full".into())).unwrap();
        let kick = terms("kick", 1);
        let lost = place.signed("kick", "n1");
        let beside = place.signed("kick", "n2");
        let (lost, beside, claimed, ()) = tokio::join!(
            store.submit_after(lost.clone(), kick.clone(), unrecorded),
            store.submit(&beside, &kick),
            store.claim(),
            hold.until(3)
        );
        for refused in [lost, beside] {
            let Err(SubmitError::Unavailable(reason)) = refused else { panic!("{refused:?}") };
            assert!(reason.to_string().contains("the disk is full"), "{reason}");
        }
        assert_eq!(claimed.unwrap().map(|claim| claim.job), Some(earlier), "what else was done is kept");
        assert_eq!(count(&store).await, before);
        // Neither counts among those that wait, and their messages are as good as never sent.
        for message in ["n1", "n2"] {
            let again = store.submit(&place.signed("kick", message), &terms("kick", 1)).await.unwrap();
            assert_eq!(again.how, How::Fresh);
        }
        assert_eq!(store.submit(&place.signed("kick", "n3"), &kick).await, Err(SubmitError::Full));
    }

    #[tokio::test]
    async fn a_decision_that_nobody_makes_any_more_is_not_on_record() {
        let place = Place::new();
        let (store, _) = place.open();
        let (tell, decision) = decision();
        drop(tell);
        let refused = store.submit_after(place.signed("kick", "n1"), terms("kick", 1), decision).await;
        assert!(matches!(refused, Err(SubmitError::Unavailable(_))), "{refused:?}");
        assert_eq!(count(&store).await, 0);
    }
}
