"""What an app's group and its changelogs are called in Kafka."""


def app_id(name: str) -> str:
    """Faust app id, Kafka group and prefix of transactional ids of core, or of a stage that runs alone."""
    return f"chat4all-{name}"


def changelog_topic(app_id: str, table: str | None) -> str:
    """Of a table, as Faust names it; of the one that all tables share without a table."""
    return f"{app_id}-changelog" if table is None else f"{app_id}-{table}-changelog"
