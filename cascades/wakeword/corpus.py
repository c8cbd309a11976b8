"""Who says what: the voices and texts of training and of evaluation, which share nothing but the wake phrase."""

from typing import NamedTuple
from zlib import crc32

import numpy as np

from cascades.wakeword.speech import RATE_HZ, Samples, in_room, resample, say

PHRASE = "okay nabu"

# Words that sound like the phrase, for what a sensitive node falls for; and talk that does not.
TRAIN_NEAR = """okay maybe. okay number. okay menu. okay zulu. okay navy. okay nephew. okay taboo. okay bamboo. okay baboon. okay kangaroo.
okay Nadia. okay Abu. okay nab it. okay rabbi. nabu. okay. okay computer. okay Google. okay then. okay boo. okay new boots. okay now. okay no.
okay nine. okay noodle. okay napkin. okay balloon. okay igloo. oh canoe. decay of a new one. the bouquet is new. a K and a U. okay who. okay nursery.
okay nugget. okay nail. okay a few. okay apple. okay natural. okay gnome. obey now. okay nappy. okay knee. oak
and bamboo. OK Daboo. okay Gabu. okay labour. okay nimble. okay noble. okay nibble. okay knob. okay naming. hokey cokey. oh okay. okay okay. they nab you.
okay narrow. okay Nancy. okay Ned. okay Nairobi. croquet and blue. okay lobby. okay nanny. okay mango. okay namesake. okay snap. okay Natalie. okay label you""".split(
    "."
)
TEST_NEAR = """okay Nabil. okay nobody. okay tattoo. okay never. okay Nemo. okay nap two. okay Malibu. okay Cebu. okay nachos. okay Napoleon. okay Nepal.
okay neighbour. okay barbecue. okay cuckoo. okay nasty. okay Naples. okay shampoo. okay nature. hey Babu. okay tabby. okay caribou. okay name you. okay
knight. okay Norway. okay noon. okay native. okay nap. okay novel. okay gnu. okay nature view. okay nest. okay naughty. oh gay Naboth. parquet new blue.
okay Zebu. okay naval. okay honeydew. okay nudge. okay happy. okay cashew. okay knapsack. okay navigate. okay narwhal. okay notebook. away nabob""".split(
    "."
)
TRAIN_TALK = """what time is it in London. please close the window before you go. the train leaves at a quarter past nine. I think we should paint the
kitchen yellow. can you pass me the salt. it was raining all day long. she sold her bicycle last week. the keys are on the table. I would like a cup of tea.
nobody knows why the bridge fell. my brother lives near the harbour. we are out of milk again. turn left after the church. the children are asleep upstairs.
he bought a new pair of shoes. that film was far too long. open the garage door. switch the heating off. how do you spell that. the cat knocked over a vase.
call me when you are back. there is a letter for you. that is not what I meant. five, six, seven, eight. let us meet at the station. did you hear the news.
the garden needs some water. breakfast will be ready soon. I never liked this song. put the book on the shelf. alexa. hey Jarvis. hey Mycroft""".split(
    "."
)
TEST_TALK = """the museum opens on Tuesday morning. could you lend me your umbrella. our neighbours have a noisy dog. the soup is still too hot. he forgot
his glasses in the office. there are twelve eggs in the box. we walked along the river. the battery is nearly empty. a storm is coming from the west. who
left the lights on. my phone is in the other room. the plumber comes tomorrow. she plays the violin very well. that was a close game. read me the first
page. the coffee machine is broken again. nine out of ten people agree. the old mill burned down in spring. take the second road on the right. his train
was an hour late. they have moved to the country. I cannot find the remote control. it smells of fresh bread. keep the change""".split(".")
TRAIN_AFTER = ["", "", "what is the time", "play some music", "turn on the radio", "stop", "I need some help", "set an alarm for six"]
TEST_AFTER = [
    "",
    "",
    "switch on the kitchen light",
    "how warm is it outside",
    "add butter to the list",
    "good morning",
    "lock the front door",
]

_TRAIN_ACCENTS = ("en-us", "en-gb", "en-gb-scotland", "en-029")
_TEST_ACCENTS = ("en-gb-x-rp", "en-us-nyc", "en-gb-x-gbclan", "en-gb-x-gbcwmd")
_TRAIN_TIMBRES = """f1 f3 f5 m1 m3 m5 m7 Alex Andy Denis Gene Lee Michael aunty belinda boris david edward grandma iven john max miguel quincy robert shelby
travis zac klatt2 adam anikaRobot ed marcelo Mario Hugo antonio""".split()
_TEST_TIMBRES = """f2 f4 m2 m4 m6 m8 Alicia Annie Diogo Jacky anika benjamin caleb grandpa linda michel paul rob sandro steph victor klatt4 pablo
Henrique""".split()


class Utterance(NamedTuple):
    """Something said once: the same fields give the same sound."""

    text: str
    voice: str
    take: int
    phrase: bool  # whether it begins with the wake phrase
    background: str = ""  # what somebody else says meanwhile
    warp_percent: int = 0  # a higher voice in a smaller head

    def record(self) -> Samples:
        """What a node's microphone hears."""
        rng = np.random.default_rng(crc32(repr(tuple(self)).encode()))
        speech = say(self.text, self.voice, speed=rng.uniform(0.8, 1.25), pitch=int(rng.integers(25, 75)))
        speech = resample(speech, RATE_HZ * (100 + self.warp_percent) // 100)
        return in_room(speech, rng, say(self.background, self.voice) if self.background else None)


class Split(NamedTuple):
    """What one side hears."""

    voices: list[str]
    near: list[str]
    talk: list[str]
    after: list[str]  # what follows the phrase
    warps_percent: list[int]

    def utterances(self, phrases: int, near: float, talk: float) -> list[Utterance]:
        """`phrases` takes of the phrase by every voice, and shares of all pairs of a voice and a near miss or other talk."""
        rng = np.random.default_rng(0)
        said = [
            (f"{PHRASE}{mark} {after}".strip(), voice, take, True)
            for voice in self.voices
            for take, (mark, after) in enumerate(zip(rng.choice([",", "!", "?", ""], phrases), rng.choice(self.after, phrases), strict=True))
        ]
        for texts, share in ((self.near, near), (self.talk, talk)):
            pairs = [(text, voice, 0, False) for text in texts for voice in self.voices]
            said += [pairs[n] for n in rng.choice(len(pairs), round(share * len(pairs)), replace=False)]
        return [Utterance(*what, self._background(rng), int(rng.choice(self.warps_percent))) for what in said]

    def _background(self, rng: np.random.Generator) -> str:
        return str(rng.choice(self.talk)) if rng.random() < 0.25 else ""


def _voices(accents: tuple[str, ...], timbres: list[str]) -> list[str]:
    """Each accent with every second timbre."""
    return [f"espeak-ng:{accent}+{timbre}" for a, accent in enumerate(accents) for timbre in timbres[a % 2 :: 2]]


def _texts(lines: list[str]) -> list[str]:
    return [" ".join(line.split()) for line in lines]


TRAIN = Split(_voices(_TRAIN_ACCENTS, _TRAIN_TIMBRES) + ["flite:kal16", "flite:awb"], _texts(TRAIN_NEAR), _texts(TRAIN_TALK), TRAIN_AFTER, [-12, -8, -4, 0, 4, 8, 12])
TEST = Split(_voices(_TEST_ACCENTS, _TEST_TIMBRES) + ["flite:slt", "flite:rms"], _texts(TEST_NEAR), _texts(TEST_TALK), TEST_AFTER, [0])


def assert_disjoint() -> None:
    """Raise AssertionError where evaluation would hear a voice, an accent, a timbre or a text of training."""
    heard = {part for voice in TRAIN.voices for part in (voice, *voice.split("+"))}
    assert not heard & {part for voice in TEST.voices for part in (voice, *voice.split("+"))}
    learnt = {text.lower() for text in TRAIN.near + TRAIN.talk + TRAIN.after if text}
    assert not learnt & {text.lower() for text in TEST.near + TEST.talk + TEST.after if text}
