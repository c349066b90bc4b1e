//! What every driver speaks and none owns.
