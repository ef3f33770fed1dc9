package io.stepdown;

/** What one look at a marker says. */
final class Sighting {
    enum Kind {
        PRESENT,
        /** The storage said "no such file", and the directory was the known one in the same look. */
        ABSENT,
        /** Everything else. Never a reason to stop anything. */
        UNKNOWN
    }

    static final Sighting PRESENT = new Sighting(Kind.PRESENT, null);
    static final Sighting ABSENT = new Sighting(Kind.ABSENT, null);

    final Kind kind;

    /** Why nothing can be said; null unless unknown. */
    final String why;

    private Sighting(Kind kind, String why) {
        this.kind = kind;
        this.why = why;
    }

    static Sighting unknown(String why) {
        return new Sighting(Kind.UNKNOWN, why);
    }
}
