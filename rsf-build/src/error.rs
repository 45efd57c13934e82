//! What is wrong with the .proto files, all of it at once.

use std::fmt;

/// Why nothing was generated: every problem that was found.
///
/// `Debug` prints what `Display` prints, because a build script that ends with an error shows it by `Debug`.
pub struct Error {
    problems: Vec<Problem>,
}

/// One thing to put right.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The .proto file as it is imported, or the file or folder that cannot be used; empty where none is to blame.
    pub file: String,
    /// Line and column, from 1.
    pub position: Option<(usize, usize)>,
    /// What is wrong, and what to do.
    pub message: String,
}

impl Error {
    /// What was found: in the order of the files, and within a file from top to bottom.
    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }

    pub(crate) fn new(problems: Vec<Problem>) -> Self {
        Error { problems }
    }
}

impl Problem {
    pub(crate) fn of(file: impl Into<String>, message: impl Into<String>) -> Self {
        Problem {
            file: file.into(),
            position: None,
            message: message.into(),
        }
    }

    /// What problems are sorted by; those of one place stay in the order in which they were found.
    pub(crate) fn place(&self) -> (String, Option<(usize, usize)>) {
        (self.file.clone(), self.position)
    }
}

impl std::error::Error for Error {}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "rsf-build: ")?;
        if let [problem] = &self.problems[..] {
            return write!(f, "{problem}");
        }
        write!(f, "{} problems", self.problems.len())?;
        for problem in &self.problems {
            write!(f, "\n  {problem}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.file.is_empty() {
            f.write_str(&self.file)?;
            if let Some((line, column)) = self.position {
                write!(f, ":{line}:{column}")?;
            }
            f.write_str(": ")?;
        }
        f.write_str(&self.message)
    }
}
