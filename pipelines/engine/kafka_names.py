"""Names in Kafka: of an app's group and of its changelogs."""


def app_id(name: str) -> str:
    """Faust app id, Kafka group and prefix of transactional ids of core, or of a stage that runs alone."""
    return f"chat4all-{name}"


def changelog_topic(app_id: str, table: str | None) -> str:
    """The changelog of a table, as Faust names it; without a table, the changelog that all tables share."""
    return f"{app_id}-changelog" if table is None else f"{app_id}-{table}-changelog"
