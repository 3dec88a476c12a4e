//! Who is calling.

/// The caller of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// The owner of what the request makes.
    pub id: String,
}

impl Caller {
    /// Callers cannot prove who they are yet, so all of them are this one.
    pub fn dev() -> Self {
        Self {
            id: "dev".to_owned(),
        }
    }
}
