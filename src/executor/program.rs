//! Whether the programs of a run are there and safe to execute, asked right before they are.
//! The judgement itself is the policy's, as at load.

use std::path::PathBuf;

use super::shortage::NotStarted;
use crate::domain::argv::Argv;
use crate::policy::opening::{ProgramProblem, check_program};

/// Checks the program of every step, on a thread that may wait for a slow file system.
///
/// # Errors
/// The first program that is missing or unsafe, as a sentence, or that cannot be looked at now.
pub(super) async fn all_stand(steps: &[Argv]) -> Result<(), NotStarted> {
    let programs: Vec<PathBuf> = steps.iter().map(|argv| argv.program().to_owned()).collect();
    let checked = tokio::task::spawn_blocking(move || {
        programs.iter().try_for_each(|program| {
            check_program(program).map_err(|problem| NotStarted {
                reason: format!("`{}`: {problem}", program.display()),
                is_shortage: matches!(problem, ProgramProblem::Shortage { .. }),
            })
        })
    });
    let broken = |error| NotStarted::because(format!("the programs could not be checked: {error}"));
    checked.await.unwrap_or_else(|error| Err(broken(error)))
}
