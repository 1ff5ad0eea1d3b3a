-- Kind of content a delivery carries, as its message says: signals (typing, mark_read) are sent and never more, so reports can leave them out.
alter table deliveries add column kind text not null default 'text';
