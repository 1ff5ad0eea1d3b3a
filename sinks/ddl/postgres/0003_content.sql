-- What a message says beyond its text: media, template, location, what it answers, reaction. Null for a plain text; only what was said is
-- in it (schemas/content_json.py), with the names of the fields of schemas/avro/message.v2.avsc. Texts in it keep the rules of 0001.
alter table messages add column content jsonb;
alter table message_conflicts add column content jsonb;
