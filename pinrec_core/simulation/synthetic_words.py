"""The words of the synthetic log: topics with their niches, and the phrases of titles and queries."""

from __future__ import annotations

TOPICS: dict[str, tuple[str, ...]] = {
    "Gardening": ("raised beds", "succulents", "tomato plants", "rose bushes", "herb gardens", "garden paths"),
    "Baking": ("sourdough bread", "chocolate cake", "cinnamon rolls", "macarons", "apple pie", "birthday cupcakes"),
    "Dinner": ("pasta bakes", "vegetable curry", "sheet pan chicken", "ramen bowls", "fish tacos", "lentil soup"),
    "Interiors": ("reading nooks", "kitchen islands", "gallery walls", "linen curtains", "entryways", "loft beds"),
    "Woodworking": ("oak tables", "bookshelves", "dovetail joints", "tool chests", "cutting boards", "bird houses"),
    "Fashion": ("denim jackets", "summer dresses", "leather boots", "wool coats", "silk scarves", "linen trousers"),
    "Hair": ("braids", "curly bobs", "balayage", "pixie cuts", "wedding updos", "fringes"),
    "Travel": ("Lisbon streets", "Kyoto temples", "Norwegian fjords", "Greek islands", "desert roads", "night trains"),
    "Hiking": ("alpine trails", "rucksacks", "mountain huts", "trail shoes", "camp stoves", "forest walks"),
    "Fitness": ("kettlebell workouts", "marathon plans", "yoga flows", "pull ups", "core training", "stretching"),
    "Illustration": ("ink drawings", "watercolour flowers", "comic pages", "portraits", "botanical prints", "gouache"),
    "Photography": ("street photos", "film cameras", "long exposures", "family portraits", "macro shots", "darkrooms"),
    "Knitting": ("cable sweaters", "lace shawls", "baby blankets", "mittens", "crochet bags", "sock yarn"),
    "Weddings": ("table settings", "bridal bouquets", "invitations", "vows", "lace gowns", "barn venues"),
    "Parenting": ("nursery shelves", "sensory games", "packed lunches", "bedtime routines", "toy storage", "crafts"),
    "Cars": ("camper vans", "classic roadsters", "electric hatchbacks", "rally cars", "engine swaps", "roof tents"),
    "Music": ("vinyl shelves", "jazz guitar", "home studios", "synthesizers", "piano chords", "drum kits"),
    "Science": ("nebulae", "coral reefs", "dinosaur fossils", "volcanoes", "microscopes", "bird migration"),
    "Pets": ("cat trees", "puppy training", "aquariums", "rabbit hutches", "dog coats", "parrots"),
    "Money": ("budget planners", "meal budgets", "side businesses", "first mortgages", "index funds", "envelopes"),
}
"""The niches of each topic. A query asks for a niche, and related items share one."""

STYLES: dict[str, tuple[str, tuple[str, ...]]] = {
    "save": ("ideas", ("{n} {ideas} ideas: {a} {t}", "How to plan {a} {t}", "A checklist for {a} {t}")),
    "click": ("gallery", ("{a} {t} in pictures", "{n} photos of {a} {t}", "Look at these {a} {t}")),
    "long_click": ("guide", ("The complete guide to {a} {t}", "{a} {t}, explained in depth", "The story of {a} {t}")),
    "outbound_click": ("shop", ("Shop {a} {t}", "{a} {t} on sale", "Where to buy {a} {t}")),
    "hide": ("sponsored", ("You will not believe these {t}", "One weird trick for {t}", "Win free {t} today")),
}
"""For each action the kind of items that get it more often than others, and the phrases of their titles."""

ADJECTIVES = (
    "simple", "modern", "rustic", "small", "colourful", "budget", "vintage", "minimal", "cosy", "bold", "weekend",
    "Scandinavian", "elegant", "sturdy", "quick", "sustainable", "handmade", "classic", "bright", "quiet", "seasonal",
    "clever", "beginner", "unusual",
)  # fmt: skip

IDEA_WORDS = ("clever", "easy", "fresh", "lovely", "practical", "weekend")

QUERIES = ("{t}", "{a} {t}", "{t} ideas", "best {t}", "{a} {t} for beginners", "how to start with {t}")
