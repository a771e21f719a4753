//! The argv array of one step: an absolute program and its arguments.
//!
//! Refuses a relative program (there is no search path) and NUL bytes. There is no way to make one from a command line
//! in one string, and none to run it from here: processes start in `executor::spawn`.

use std::path::{Path, PathBuf};

/// Most arguments of one step, the program not counted; far below what the kernel takes.
pub const MOST_ARGUMENTS: usize = 256;

/// A program and its arguments, ready to be executed as they stand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Argv {
    program: PathBuf,
    arguments: Vec<String>,
}

/// Why something is not an argv array.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotAnArgv {
    /// The program is not an absolute path in its shortest form.
    #[error("the program is an absolute path without `.`, `..` or empty parts, such as `/usr/bin/mco`")]
    Program,
    /// A NUL byte, which would end an argument early.
    #[error("argument {index} holds a NUL byte")]
    Nul {
        /// Which argument; the program is 0.
        index: usize,
    },
    /// More than [`MOST_ARGUMENTS`].
    #[error("more than {MOST_ARGUMENTS} arguments")]
    TooMany,
}

impl Argv {
    /// Puts a program and its arguments together.
    ///
    /// # Errors
    /// When the program is not absolute, there are too many arguments, or one holds a NUL byte.
    pub fn new(program: &str, arguments: Vec<String>) -> Result<Self, NotAnArgv> {
        let plain = program.starts_with('/')
            && program.split('/').skip(1).all(|part| !matches!(part, "" | "." | ".."));
        if !plain {
            return Err(NotAnArgv::Program);
        }
        if arguments.len() > MOST_ARGUMENTS {
            return Err(NotAnArgv::TooMany);
        }
        let mut all = std::iter::once(program).chain(arguments.iter().map(String::as_str));
        if let Some(index) = all.position(|argument| argument.contains('\0')) {
            return Err(NotAnArgv::Nul { index });
        }
        Ok(Self { program: program.into(), arguments })
    }

    /// The program to execute.
    #[must_use]
    pub fn program(&self) -> &Path {
        &self.program
    }

    /// The arguments after the program.
    #[must_use]
    pub fn arguments(&self) -> &[String] {
        &self.arguments
    }

    /// Program and arguments as one list, for records and answers.
    #[must_use]
    pub fn to_list(&self) -> Vec<String> {
        let program = self.program.to_string_lossy().into_owned();
        std::iter::once(program).chain(self.arguments.iter().cloned()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn i3_argv_only_from_an_absolute_program() {
        for bad in ["", "mco", "./mco", "../mco", "/", "/usr//bin/mco", "/usr/../bin/mco", "/usr/bin/mco/"] {
            assert_eq!(Argv::new(bad, vec![]), Err(NotAnArgv::Program), "{bad:?}");
        }
        assert_eq!(Argv::new("/a\0b", vec![]), Err(NotAnArgv::Nul { index: 0 }));
        assert_eq!(Argv::new("/a", vec!["x".into(), "y\0".into()]), Err(NotAnArgv::Nul { index: 2 }));
        assert_eq!(Argv::new("/a", vec![String::new(); MOST_ARGUMENTS + 1]), Err(NotAnArgv::TooMany));
    }
}
