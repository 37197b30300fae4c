//! Which token comes next: greedy or drawn, with penalties.
