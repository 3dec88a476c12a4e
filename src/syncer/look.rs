//! A look at many agents at once, to find those that a pass has to look at one by one. It tells by what the last sync of each has noted in
//! the ledger, so that nothing of the others leaves the server.
//!
//! No lock is taken, and nothing is written. What is not surely as it should be is due: an agent with users' assistants (who are asked
//! about at every pass), one that failed, is held, in conflict or off, one whose assistant's row is another version than the one that
//! was left, whoever wrote that and whatever it says. [`Syncer::sync`] then decides, and notes what it has found.

use super::reach::shared_scope;
use super::report::Origin;
use super::{Entrance, Syncer};
use crate::database::{DEADLINE, Error, begin_reading};
use crate::source::{Page, Stretch};
use crate::sql;

/// What a look brings.
#[derive(Debug)]
pub enum Overview {
    /// `None`: there are no more agents.
    Seen(Option<Page>),
    /// Assistants live outside the database, so it cannot be told.
    Beyond,
}

impl Syncer {
    pub async fn look_over(&self, stretch: &Stretch<'_>) -> Result<Overview, Error> {
        if self.place.beyond().is_some() {
            return Ok(Overview::Beyond);
        }
        let origin = Origin::of(Entrance::Pass);
        let looking = async {
            let mut client = self.database.client().await?;
            let tx = begin_reading(&mut client).await?;
            let shape = self.source.shape(&tx).await?;
            // Of a schema that is newer, nobody here knows what is in it.
            shared_scope((&tx).into()).await?;
            tx.batch_execute(sql!("look_over_limits")).await?;
            let (basis, names) = (self.basis(), self.settings.write_back);
            let page = shape.look_over(&tx, stretch, &basis, names).await?;
            tx.commit().await?;
            client.give_back();
            Ok(page)
        };
        let looked = self.database.within(DEADLINE, looking).await;
        if let Err(error) = &looked
            && (error.is_schema_drift() || error.denial().is_some())
        {
            self.source.outdated();
        }
        let page = looked?;
        if let Some(page) = &page
            && page.unchanged > 0
        {
            self.tell_unchanged(page.unchanged, &origin);
        }
        Ok(Overview::Seen(page))
    }
}
